import json

import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.training.config import DistillConfig, TrainConfig
from compactff_md.training.distributed import Team
from compactff_md.training.recipe_files import make_config
from compactff_md.training.runs import RUN_FILE, check_labels_are_the_same, open_run

ALONE = Team(0, 1, torch.device("cpu"))


def test_a_new_folder_is_taken_and_found_again(tmp_path):
    out = tmp_path / "a" / "b"
    run = open_run(out, "train", TrainConfig(), {"train_sha256": "1"}, ALONE)
    assert (run.resumed, run.finished) == (False, False)
    assert open_run(out, "train", TrainConfig(), {"train_sha256": "1"}, ALONE).resumed
    run.finish()
    assert open_run(out, "train", TrainConfig(), {"train_sha256": "1"}, ALONE).finished


def test_the_folder_is_the_same_from_wherever_it_is_looked_at(tmp_path, monkeypatch):
    """Workers of a cluster wrote labels below their own current folder."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert open_run("out", "train", TrainConfig(), {}, ALONE).path == tmp_path / "out"


@pytest.mark.parametrize(
    ("command", "values", "digest", "message"),
    [
        ("train", {"size": "original"}, "1", "size is 'tiny' there and 'original' now"),
        ("train", {"checks": {"duplicates": "keep"}}, "1", "checks.duplicates is 'error' there"),
        ("train", {}, "2", "train_sha256 is '1' there and '2' now"),
        ("distill", {}, "1", "command is 'train' there"),
    ],
)
def test_another_run_is_refused(tmp_path, command, values, digest, message):
    open_run(tmp_path, "train", TrainConfig(), {"train_sha256": "1"}, ALONE)
    with pytest.raises(CompactFFError, match=message):
        open_run(tmp_path, command, make_config(TrainConfig, values), {"train_sha256": digest}, ALONE)


def test_what_does_not_change_the_result_may_differ(tmp_path):
    first = make_config(DistillConfig, {"structures": "a.xyz"})
    second = make_config(
        DistillConfig, {"structures": "b.xyz", "threads": 2, "device": "cpu", "sampling": {"n_workers": 1}}
    )
    open_run(tmp_path, "distill", first, {}, ALONE)
    assert open_run(tmp_path, "distill", second, {}, ALONE).resumed


def test_when_to_give_up_may_be_raised_as_the_message_says(tmp_path):
    first = make_config(DistillConfig, {"structures": "a.xyz"})
    more = make_config(DistillConfig, {"structures": "a.xyz", "sampling": {"max_failures": 0.4}})
    open_run(tmp_path, "distill", first, {}, ALONE)
    assert open_run(tmp_path, "distill", more, {}, ALONE).resumed
    check_labels_are_the_same(tmp_path, more, {})
    # Earlier versions counted it among what makes a run.
    content = json.loads((tmp_path / RUN_FILE).read_text())
    content["identity"]["sampling.max_failures"] = 0.2
    (tmp_path / RUN_FILE).write_text(json.dumps(content))
    assert open_run(tmp_path, "distill", more, {}, ALONE).resumed
    check_labels_are_the_same(tmp_path, more, {})


def test_what_does_not_count_yet_may_be_given_anew_and_then_holds(tmp_path):
    short, longer = (make_config(DistillConfig, {"structures": "a", "minutes": m}) for m in (1, 2))
    open_run(tmp_path, "distill", short, {}, ALONE)
    with pytest.raises(CompactFFError, match=r"minutes is 1\.0 there and 2\.0 now"):
        open_run(tmp_path, "distill", longer, {}, ALONE)
    assert open_run(tmp_path, "distill", longer, {}, ALONE, ("minutes",)).resumed
    assert open_run(tmp_path, "distill", longer, {}, ALONE).resumed
    with pytest.raises(CompactFFError, match=r"minutes is 2\.0 there and 1\.0 now"):
        open_run(tmp_path, "distill", short, {}, ALONE)


def test_what_earlier_versions_did_not_write_down_is_taken_as_given_and_then_holds(tmp_path):
    config, name = make_config(DistillConfig, {"structures": "a"}), "isolated_energies_checksum"
    open_run(tmp_path, "distill", config, {}, ALONE)
    assert open_run(tmp_path, "distill", config, {name: "1"}, ALONE).resumed
    for other in ("2", None):
        with pytest.raises(CompactFFError, match=f"{name} is '1' there and {other!r} now"):
            open_run(tmp_path, "distill", config, {name: other}, ALONE)
    assert open_run(tmp_path, "distill", config, {name: "2"}, ALONE, (name,)).resumed


def test_other_folders_files_and_damaged_runs_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompactFFError, match="is a file; expected the name of a folder"):
        open_run(tmp_path / "file", "train", TrainConfig(), {}, ALONE)
    with pytest.raises(CompactFFError, match="is not empty and holds no run"):
        open_run(tmp_path, "train", TrainConfig(), {}, ALONE)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CompactFFError, match=r"run.json cannot be read"):
        open_run(tmp_path, "train", TrainConfig(), {}, ALONE)


def test_a_run_of_a_version_that_lacked_a_field_goes_on(tmp_path):
    step = {"kind": "md", "frames": 10}
    config = make_config(DistillConfig, {"structures": "a.xyz", "sampling": {"steps": [step]}})
    open_run(tmp_path, "distill", config, {}, ALONE)
    path = tmp_path / RUN_FILE
    content = json.loads(path.read_text())
    assert content["identity"].pop("start_from", "missing") is None
    assert content["identity"]["sampling.steps"][0].pop("driver", "missing") is None
    path.write_text(json.dumps(content))
    assert open_run(tmp_path, "distill", config, {}, ALONE).resumed
    other = make_config(
        DistillConfig, {"structures": "a.xyz", "sampling": {"steps": [{**step, "driver": "student:x"}]}}
    )
    with pytest.raises(CompactFFError, match=r"sampling\.steps is"):
        open_run(tmp_path, "distill", other, {}, ALONE)
