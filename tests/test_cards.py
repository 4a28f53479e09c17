"""What is told of the students that come with the package is what their files have."""

import re

import pytest

from compactff_md.artifact import read_metadata
from compactff_md.student import SHIPPED, load
from compactff_md.training.evaluation import evaluate
from compactff_md.training.ship import again
from compactff_md.validation import endurance, shipped
from compactff_md.validation.report import read_report
from texts import RECIPES, ROOT

# R2 of the forces on all unseen frames, at least.
TARGETS = {
    "organic-original": 0.998,
    "organic-tiny": 0.995,
    "organic-ultra-tiny": 0.990,
    "argyrodite-original": 0.998,
    "argyrodite-tiny": 0.997,
    "argyrodite-ultra-tiny": 0.995,
}
TESTS = ("test_300K", "test_600K", "test_1000K")


def forces(name, test="test_all"):
    return read_metadata(SHIPPED[name]).metrics[test]["forces"]


def test_every_student_has_a_target_that_it_reaches():
    assert TARGETS.keys() == SHIPPED.keys()
    for name, r2 in TARGETS.items():
        assert forces(name)["r2"] >= r2, name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_is_what_is_made_of_the_file_and_the_text_on_its_family(name):
    """``python -m compactff_md.training.ship NAME`` writes it again."""
    assert SHIPPED[name].with_suffix(".md").read_text() == again(name)


def test_the_table_of_the_readme_is_that_of_the_files():
    rows = [
        f"| [`{name}`](compactff_md/shipped/{name}.md) | {read_metadata(SHIPPED[name]).num_parameters:,} | "
        + " | ".join(f"{forces(name, test)['rmse_meV_per_A']:.0f}" for test in TESTS)
        + f" | {forces(name)['r2']:.4f} |"
        for name in TARGETS
    ]
    assert "\n".join(rows) + "\n\n" in (ROOT / "README.md").read_text()


def test_what_texts_on_a_family_tell_of_sizes_is_that_of_the_files():
    def told(family, words):
        found = re.search(words, (RECIPES / f"{family}.md").read_text())
        assert found, words
        return list(found.groups())

    absolute = [
        f"{read_metadata(SHIPPED[f'organic-{size}']).metrics['test_all']['energy']['rmse_absolute_meV_per_atom']:.2f}"
        for size in ("original", "tiny", "ultra-tiny")
    ]
    assert told("organic", r"have errors of (\S+), (\S+) and (\S+) meV/atom") == absolute
    sizes = ("argyrodite-tiny", "argyrodite-ultra-tiny")
    overall = [f"{forces(name)['rmse_meV_per_A']:.1f}" for name in sizes]
    assert told("argyrodite", r"where the shipped ones have (\S+) and (\S+) \(R2") == overall
    each = [f"{forces(sizes[1], test)['rmse_meV_per_A']:.1f}" for test in TESTS]
    assert told("argyrodite", r"where the shipped one has (\S+), (\S+) and (\S+)\.") == each


def test_students_of_argyrodite_are_as_good_on_arrangements_that_no_training_has():
    names = [name for name in TARGETS if name.startswith("argyrodite")]
    fresh = ROOT / "validation" / "reports" / "argyrodite_fresh.xyz.gz"
    found = [evaluate(load(name), {"fresh": fresh})["fresh"] for name in names]
    for name, errors in zip(names, found, strict=True):
        assert errors["forces"]["r2"] >= TARGETS[name]
    text = (RECIPES / "argyrodite.md").read_text()
    for numbers in (
        [f"{errors['forces']['rmse_meV_per_A']:.1f}" for errors in found],
        [f"{errors['forces']['r2']:.4f}" for errors in found],
        [f"{errors['energy']['rmse_meV_per_atom']:.2f}" for errors in found],
        [f"{errors['stress']['rmse_GPa']:.3f}" for errors in found],
    ):
        assert "{}, {} and {}".format(*numbers) in text


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("organic")])
def test_errors_of_the_organic_students_are_told_again_by_the_frames_of_their_test(name):
    frames = ROOT / "validation" / "reports" / "organic_test.xyz.gz"
    found, told = evaluate(load(name), {"again": frames})["again"], read_metadata(SHIPPED[name]).metrics
    assert found["forces"]["r2"] >= TARGETS[name]
    for key, error in (("forces", "rmse_meV_per_A"), ("energy", "rmse_meV_per_atom")):
        assert found[key][error] == pytest.approx(told["test_all"][key][error], rel=1e-3)


def test_the_page_of_reports_is_what_is_made_of_them():
    page = (ROOT / "docs" / "shipped.md").read_text()
    files, long = re.search(r"--out docs/shipped.md (\S+) --endurance (\S+)`", page).groups()
    reports = {path.stem: read_report(path) for path in sorted(ROOT.glob(files))}
    rows = [endurance.read_row(path) for path in sorted(ROOT.glob(long))]
    assert reports and rows
    assert page == shipped.document(reports, rows)
