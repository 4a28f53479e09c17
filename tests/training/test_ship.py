import json

import pytest

from compactff_md.artifact import load_student
from compactff_md.errors import CompactFFError
from compactff_md.student import SHIPPED, load
from compactff_md.training.config import TrainConfig
from compactff_md.training.distill import train_from_files
from compactff_md.training.ship import again, main, ship


def trained(out, frames, **settings):
    config = TrainConfig(size="ultra-tiny", steps=5, threads=1, **settings)
    train_from_files(config, [frames[:8]], out, frames[8:10], {"test_300K": frames[10:]})
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory, copper_frames):
    return trained(tmp_path_factory.mktemp("run") / "copper", copper_frames)


def test_a_student_is_shipped_with_its_card(finished, tmp_path):
    card = ship("organic-ultra-tiny", finished, tmp_path)
    network, metadata = load_student(tmp_path / "organic-ultra-tiny.safetensors")
    text = card.read_text()
    metrics = json.loads((finished / "metrics.json").read_text())
    rmse = metrics["errors"]["test_300K"]["forces"]["rmse_meV_per_A"]
    assert f"| 300 K | 2 | {rmse:.1f} |" in text
    assert f"| 300 K | {metrics['errors']['test_300K']['stress']['rmse_GPa']:.3f} |" in text
    assert f"{network.num_parameters:,} parameters" in text
    assert f"| Cu | {rmse:.1f} |" in text
    assert "--student organic-ultra-tiny" in text and "--size ultra-tiny" in text
    assert "NAME" not in text and "SIZE" not in text
    assert metadata.size == "ultra-tiny"
    absolute = metrics["errors"]["test_300K"]["energy"]["rmse_absolute_meV_per_atom"]
    assert f" | {absolute:.2f} |\n" in text
    assert again("organic-ultra-tiny", tmp_path) == text
    card.write_text(text.replace(f"| {rmse:.1f} |", "| 1.0 |").replace("5 steps", "1,234 steps"))
    assert again("organic-ultra-tiny", tmp_path) == text.replace("5 steps", "1,234 steps")
    with pytest.raises(CompactFFError, match="expected a student of the package, with its card"):
        again("organic-tiny", tmp_path)


def test_the_card_says_what_the_training_went_on_from(finished, copper_frames, tmp_path):
    first = finished / "student.safetensors"
    again = trained(tmp_path / "again", copper_frames, start_from=str(first))
    words = {run: ship("organic-ultra-tiny", run, tmp_path / "out").read_text() for run in (again, finished)}
    assert "5 steps, going on from the student of an earlier run." in words[again]
    assert "5 steps.\n" in words[finished]


@pytest.mark.parametrize("words", [[], ["--help"], ["a", "b", "c"]])
def test_its_usage(monkeypatch, words):
    monkeypatch.setattr("sys.argv", ["ship", *words])
    with pytest.raises(SystemExit, match=r"usage: .*NAME"):
        main()


def test_what_is_not_finished_is_not_shipped(finished, tmp_path):
    with pytest.raises(CompactFFError, match="expected a finished run"):
        ship("organic-tiny", tmp_path, tmp_path / "out")
    with pytest.raises(CompactFFError, match=r"marble\.md is missing"):
        ship("marble-tiny", finished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_students_load_by_name_and_have_a_card(name):
    student = load(name)
    assert student.num_parameters < 430_000 and student.uncertainty is not None
    card = SHIPPED[name].with_suffix(".md").read_text()
    assert card.startswith(f"# {name}\n") and f"{student.num_parameters:,} parameters" in card
    assert SHIPPED[name].stat().st_size < 2_500_000
