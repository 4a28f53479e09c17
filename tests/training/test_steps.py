import pytest

from compactff_md.errors import CompactFFError
from compactff_md.training.config import DistillConfig, SamplingConfig
from compactff_md.training.recipe_files import make_config
from compactff_md.training.steps import step_names

MD = {"kind": "md", "frames": 10}
CONFORMERS = {"kind": "conformers", "smiles": "a.smi", "frames": 0}


def sampling(*steps, **fields) -> SamplingConfig:
    return make_config(SamplingConfig, {"steps": list(steps), **fields})


def test_steps_have_names_and_refer_to_earlier_ones():
    config = sampling(CONFORMERS, {**MD, "of": ["conformers"]}, MD, {**MD, "name": "hot"})
    assert step_names(config.steps) == ["conformers", "md", "md-2", "hot"]


@pytest.mark.parametrize(
    ("steps", "fields", "message"),
    [
        ([{"kind": "dance", "frames": 3}], {}, "steps.0.*does not match any of the expected tags"),
        ([{**MD, "frmes": 3}], {}, "there is no field 'steps.0.md.frmes'"),
        ([{"kind": "md"}], {}, "the field 'steps.0.md.frames' is missing"),
        ([{**MD, "temperatures_K": [0]}], {}, "all above 0 K"),
        (
            [{**MD, "of": ["conformers"]}, CONFORMERS],
            {},
            "step 'md' is of conformers; allowed there are given",
        ),
        ([MD, {**MD, "of": ["md"]}], {}, "is of md; allowed there are given"),
        ([{**MD, "name": "a"}, {**MD, "name": "a"}], {}, "two steps are called 'a'"),
        ([MD], {"frames": 30}, "steps and frames contradict each other"),
        ([MD], {"mode": "given", "trajectories": 3}, "steps and mode, trajectories contradict"),
        ([{**MD, "purpose": "test", "driver": "gfn1-xtb"}], {}, "leave out the driver"),
        ([{**MD, "piece_atoms": 60}], {}, "pieces are labelled of what a driver moves"),
        ([{"kind": "liquid", "water_shares": []}], {}, "at least 1 item"),
        ([{"kind": "rattle", "frames": 5, "sigma_A": [0.1, 0.01]}], {}, "expected 0 < smallest <= largest"),
        ([{"kind": "rattle", "frames": 5, "sigma_A": [0, 0.1]}], {}, "expected 0 < smallest <= largest"),
        ([{"kind": "modes", "frames": 5, "temperatures_K": []}], {}, "all above 0 K"),
        ([{"kind": "clusters", "sizes": []}], {}, "at least 1 item"),
        ([{**MD, "purpose": "test"}], {"test_frames": 3}, "steps and test_frames contradict"),
        ([{"kind": "volumes", "factors": [1.1, 0.9]}], {}, "expected 0.3 <= smallest < largest"),
        ([{"kind": "substitution"}], {}, "nothing to substitute"),
        ([{"kind": "strain", "count": 3, "frames": 5}], {}, "frames is 5 and count 3"),
        (
            [{"kind": "clusters", "sizes": [2, 1]}],
            {},
            "sizes.1 is 1: Input should be greater than or equal to 2",
        ),
        ([{"kind": "clusters", "closeness": [1.0, 0.8]}], {}, "expected 0 < smallest <= largest"),
        ([{"kind": "contacts", "closeness": [0.95, 0.7]}], {}, "expected 0 < smallest <= largest"),
        ([{"kind": "dimers", "closeness": [0, 0.7]}], {}, "expected 0 < smallest <= largest"),
        ([{"kind": "substitution", "remove": {"Cu": -2}}], {}, "remove.Cu is -2"),
        ([{"kind": "substitution", "exchange": [["Xx", "Cu"]]}], {}, "there is no element Xx"),
        ([{"kind": "substitution", "replace": {"Li": "Qq"}}], {}, "there is no element Qq"),
        ([{**MD, "pressure_bar": 500}], {}, "pressure_bar is 500, but ensemble nvt"),
        ([], {"mode": "given", "driver": "teacher"}, "nothing moves, and driver teacher: leave one out"),
    ],
)
def test_contradictions_are_told(steps, fields, message):
    with pytest.raises(CompactFFError, match=message):
        sampling(*steps, **fields)


def test_structures_may_be_missing_only_where_steps_make_some():
    make_config(DistillConfig, {"sampling": {"steps": [CONFORMERS]}})
    pairs = {"kind": "dimers", "elements": ["H", "O"]}
    make_config(DistillConfig, {"sampling": {"steps": [pairs]}})
    for step in (MD, {"kind": "dimers"}):
        with pytest.raises(CompactFFError, match="the field 'structures' is missing"):
            make_config(DistillConfig, {"sampling": {"steps": [step]}})


def test_rounds_leave_time_for_the_training():
    make_config(DistillConfig, {"structures": "a.xyz", "rounds": {"most": 4}})
    with pytest.raises(CompactFFError, match=r"6 rounds of 0\.1 of the time leave less than half"):
        make_config(DistillConfig, {"structures": "a.xyz", "rounds": {"most": 6}})


def test_runs_of_rounds_give_frames():
    with pytest.raises(CompactFFError, match="spacing_steps is 50, more than the 20 steps of a run"):
        make_config(DistillConfig, {"structures": "a.xyz", "rounds": {"steps": 20}})


@pytest.mark.parametrize("name", ["hot water", "_x", "600K-1bar", "Wässer"])
def test_names_of_steps_are_free_otherwise(name):
    assert sampling({**MD, "name": name}).steps[0].name == name
