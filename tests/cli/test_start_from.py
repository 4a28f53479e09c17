"""``--start-from``: the size is that of the student, unless another is asked for."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
TRAIN = ("train", "--train", DATA / "ethanol_train.xyz", "--start-from", "organic-ultra-tiny")


def test_the_size_is_that_of_the_student(run, tmp_path):
    result = run(*TRAIN, "--out", tmp_path / "out", "--set", "steps=1", "--set", "threads=1")
    assert result.exit_code == 0, result.output
    identity = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]
    assert (identity["size"], identity["start_from"]) == ("ultra-tiny", "organic-ultra-tiny")


def test_another_size_is_refused(refused, tmp_path):
    words = ["size is tiny", "organic-ultra-tiny has ultra-tiny"]
    refused(*TRAIN, "--size", "tiny", "--out", tmp_path / "out", words=words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--start-from", "organic-ultra-tiny"), ["asked for are Cu, too"]),
        (("--set", "elements=[Ag]"), ["structures with Cu", "elements leaves out"]),
        (("--set", "architecture=gpt"), ["no such architecture", "moments-directed"]),
    ],
)
def test_a_student_that_cannot_be_made_is_refused_before_labels(refused, tmp_path, copper, more, words):
    out = tmp_path / "out"
    refused("distill", copper, "--teacher", "ase.calculators.emt:EMT", *more, "--out", out, words=words)
    assert not out.exists()


def test_no_such_student(refused, tmp_path):
    refused(*TRAIN[:-1], "organic-huge", "--out", tmp_path / "out", words=["organic-huge"])
    assert not (tmp_path / "out").exists()
