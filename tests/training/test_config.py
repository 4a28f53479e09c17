import pytest

from compactff_md.errors import CompactFFError
from compactff_md.training.config import DistillConfig, SamplingConfig, TrainConfig
from compactff_md.training.recipe_files import make_config, read_config, write_config


def test_written_recipes_are_read_back(tmp_path):
    values = {"structures": "a.xyz", "minutes": 3, "sampling": {"frames": 50, "temperatures_K": [300]}}
    config = make_config(DistillConfig, values)
    write_config(config, tmp_path / "recipe.yaml")
    assert read_config(DistillConfig, tmp_path / "recipe.yaml") == config


def test_toml_and_overrides(tmp_path):
    (tmp_path / "r.toml").write_text('size = "tiny"\nlearning_rate = 1e-3\n[keys]\nenergy = "e"\n')
    config = read_config(TrainConfig, tmp_path / "r.toml", size="original", steps=None)
    assert (config.size, config.learning_rate, config.keys.energy) == ("original", 1e-3, "e")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "size is 'huge': no such size; allowed are original, tiny, ultra-tiny"),
        (
            {"architecture": "gpt"},
            "architecture is 'gpt': no such architecture; allowed are moments, moments-",
        ),
        ({"elements": ["H", "Xx"]}, "there is no element Xx"),
        ({"forces_weight": 0, "energy_weight": 0, "energy_weight_end": 0, "stress_weight": 0}, "are all 0"),
        ({"steps": 0}, "steps is 0: Input should be greater than 0"),
        ({"stepz": 3}, "there is no field 'stepz'; allowed are size, architecture"),
        ({"loss": "mae"}, "loss is 'mae': Input should be 'huber' or 'squared'"),
        ({"checks": {"duplicates": "ignore"}}, "checks.duplicates is 'ignore'"),
        ({"cutoff_A": 50}, "cutoff_A is 50"),
        ({"minutes": -1}, "minutes is -1"),
    ],
)
def test_bad_fields_are_named_with_what_is_allowed(values, message):
    with pytest.raises(CompactFFError, match=message):
        make_config(TrainConfig, values)


def test_structures_are_required_and_temperatures_positive():
    with pytest.raises(CompactFFError, match="the field 'structures' is missing"):
        make_config(DistillConfig, {})
    with pytest.raises(CompactFFError, match="expected at least one, all above 0 K"):
        make_config(SamplingConfig, {"temperatures_K": [300, 0]})
    with pytest.raises(CompactFFError, match="expected 0 < smallest <= largest"):
        make_config(SamplingConfig, {"rattle_sigma_A": [0.1, 0.01]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.yaml", None, "no such recipe"),
        ("r.txt", "size: tiny", "a recipe ends in .yaml, .yml or .toml"),
        ("r.yaml", "size: [tiny", "cannot be read"),
        ("r.yaml", "- tiny", "holds list; expected fields"),
        ("r.toml", "size = tiny", "cannot be read"),
        ("r.yaml", "size: vast", "r.yaml: size is 'vast'"),
    ],
)
def test_bad_recipes(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CompactFFError, match=message):
        read_config(TrainConfig, tmp_path / name)


def test_the_training_part_of_a_distillation():
    config = make_config(DistillConfig, {"structures": "a.xyz", "seed": 4, "keys": {"energy": "e"}})
    assert config.size == "ultra-tiny"
    assert config.training == make_config(
        TrainConfig, {"size": "ultra-tiny", "seed": 4, "keys": {"energy": "e"}}
    )


def test_without_a_length_there_are_steps():
    assert TrainConfig().max_steps == 20_000
    assert make_config(TrainConfig, {"minutes": 1}).max_steps is None
    assert make_config(TrainConfig, {"epochs": 3}).max_steps is None
