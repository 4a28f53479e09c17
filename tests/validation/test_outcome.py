"""Verdicts, thresholds and texts."""

import pytest

from compactff_md.errors import CompactFFError
from compactff_md.validation.outcome import Section, failed, from_plain, judge, overall, to_plain
from compactff_md.validation.panel import panel
from compactff_md.validation.thresholds import Threshold, Thresholds, catalogue

BELOW = Threshold(maximum=1.0)


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [
        (0.5, None, "pass"),
        (1.0, None, "pass"),
        (1.5, None, "fail"),
        (0.5, (0.1, 0.9), "pass"),
        (0.5, (0.1, 1.1), "undecided"),
        (1.5, (0.9, 2.0), "undecided"),
        (1.5, (1.1, 2.0), "fail"),
        (None, None, "undecided"),
        (float("nan"), None, "undecided"),
        (0.5, (float("-inf"), float("inf")), "undecided"),
    ],
)
def test_verdicts(value, interval, verdict):
    assert judge("k", value, "", BELOW, interval=interval).verdict == verdict


def test_an_interval_wider_than_what_is_allowed_is_undecided():
    band = Threshold(-0.01, 0.01)
    assert judge("k", 0.02, "", band, interval=(-0.05, 0.06)).verdict == "undecided"
    assert judge("k", 0.0, "", band, interval=(-0.05, 0.05)).verdict == "undecided"
    assert judge("k", 0.02, "", band, interval=(0.015, 0.06)).verdict == "fail"


def test_undecided_whatever_the_number():
    assert judge("k", 0.5, "", BELOW, undecided=True).verdict == "undecided"
    assert judge("k", 0.5, "", None, undecided=True).verdict == "info"


def test_overall():
    fine, bad, unclear = (judge("k", v, "", BELOW) for v in (0.0, 2.0, None))
    assert overall([fine, unclear, bad]) == "fail"
    assert overall([fine, unclear]) == "undecided"
    assert overall([fine, judge("k", 5.0, "", None)]) == "pass"
    assert overall([]) == "undecided"
    assert failed(unclear, "broke").verdict == "fail"


def test_sections_survive_json():
    section = Section(
        (judge("k", 0.5, "eV", BELOW, interval=(0.1, 0.9), note="n", subject="s"),), {"a": 1}, {"p": "q"}
    )
    assert from_plain(to_plain(section)) == section


def test_both_sides_and_nan():
    band = Threshold(-1.0, 1.0)
    assert [band.allows(x) for x in (-2.0, -1.0, 0.0, 1.0, 2.0, float("nan"))] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert str(band) == "≥ -1 and ≤ 1" and str(BELOW) == "≤ 1"


def test_every_threshold_is_described_and_explained():
    assert Thresholds().table.keys() <= catalogue().keys()
    for described in catalogue().values():
        assert (
            described.title
            and described.meaning.endswith(".")
            and described.advice.endswith((".", ").", "."))
        )


def test_own_thresholds_replace_those_of_the_package(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('"symmetry.rotation" = { maximum = 5 }\n')
    mine = Thresholds(path)
    assert mine.get("symmetry.rotation") == Threshold(maximum=5.0)
    assert mine.get("forces.own_frames.rmse") == Thresholds().get("forces.own_frames.rmse")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('"nonsense" = { maximum = 1 }', "unknown tests nonsense"),
        ('"symmetry.rotation" = 3', "expected"),
        ('"symmetry.rotation" = { most = 3 }', "expected"),
        ('"symmetry.rotation" = { maximum = "a" }', "expected a number"),
        ("this is no toml", "cannot be read as TOML"),
    ],
)
def test_bad_thresholds(tmp_path, content, words):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(CompactFFError, match=words):
        Thresholds(path)
    with pytest.raises(CompactFFError, match="no such thresholds file"):
        Thresholds(tmp_path / "none.toml")


def test_many_systems_test_by_test():
    """The worst is towards the threshold, whichever side that is on; systems without a number are counted."""
    above = Threshold(minimum=0.9)
    found = [
        judge("rmse", 0.5, "eV", BELOW, subject="A"),
        judge("rmse", 3.0, "eV", BELOW, subject="B"),
        judge("rmse", None, "eV", BELOW, subject="C"),
        judge("r2", 0.95, "", above, subject="A, openmm"),
        judge("r2", 0.99, "", above, subject="B, openmm"),
        judge("told", 1.0, "", None, subject="A"),
    ]
    rmse, r2 = panel(found, ["A", "B", "C"])
    assert rmse.counts == {"pass": 1, "undecided": 1, "fail": 1}
    assert (rmse.median, rmse.worst, rmse.worst_system) == (1.75, 3.0, "B")
    assert (r2.subject, r2.worst, r2.worst_system, r2.counts["pass"]) == ("openmm", 0.95, "A", 2)
    assert panel(found, ["A"]) == []


def test_what_no_two_systems_share_is_one_test():
    found = [
        judge("torsion", 0.5, "meV", BELOW, subject="A, C0-C1"),
        judge("torsion", 0.4, "meV", BELOW, subject="A, C1-O2"),
        judge("torsion", 3.0, "meV", BELOW, subject="B, N0-C5"),
    ]
    (row,) = panel(found, ["A", "B"])
    assert (row.subject, row.counts["pass"], row.counts["fail"]) == ("", 2, 1)
    assert (row.median, row.worst, row.worst_system) == (0.5, 3.0, "B, N0-C5")
