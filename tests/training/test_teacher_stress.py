from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training.config import DistillConfig
from compactff_md.training.journal import Journal
from compactff_md.training.recipe_files import make_config
from compactff_md.training.teacher_check import check_gradient, examine
from compactff_md.training.teacher_stress import stress_warning
from reporters import Notes

CRYSTALS = [bulk("Cu", a=3.58), bulk("Cu", cubic=True, a=3.3), bulk("Au", cubic=True, a=4.2) * (2, 1, 1)]


class Told(EMT):
    """EMT with another stress than its own."""

    factor, shift, calls, fail_from = 1.0, 0.0, 0, 1000

    def calculate(self, atoms=None, properties=None, system_changes=None):
        type(self).calls += 1
        if self.calls >= self.fail_from:
            raise RuntimeError("SCF not converged")
        super().calculate(atoms, properties, system_changes)
        if "stress" in self.results:
            self.results["stress"] = self.factor * self.results["stress"] + self.shift


TEACHER = SimpleNamespace(name="test", version="1", settings={}, calculator=Told)


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    for name in ("factor", "shift", "calls", "fail_from"):
        monkeypatch.setattr(Told, name, getattr(Told, name))


@pytest.mark.parametrize("atoms", CRYSTALS)
def test_a_stress_that_is_the_derivative_passes(atoms):
    """Also of a crystal of one atom near its minimum."""
    found = check_gradient(TEACHER, atoms)
    assert found["ok"] and found["stress"]["ok"] and found["calls"] == Told.calls == 7 + 4
    assert found["stress"]["worst_GPa"] < 0.01
    assert found["stress"]["ratio"] == pytest.approx(1, abs=1e-3)
    assert stress_warning(TEACHER, found["stress"]) == ""
    assert "stress" not in check_gradient(TEACHER, molecule("CH4"))


def run(folder, structures=CRYSTALS, **fields) -> list[str]:
    """What is noted in the first look at a teacher."""
    folder.mkdir(exist_ok=True)
    reporter = Notes()
    config = make_config(DistillConfig, {"teacher": "a:b", "structures": "some.xyz", **fields})
    teacher = create_teacher(f"{__name__}:Told")
    examine(config, teacher, structures, folder, reporter)
    return reporter.notes


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, r"the other sign; multiply them by -1,"),
        (160.2, r"differs by 0.0062\d+ times .*likely in GPa; divide"),
        (-160.2, r"in GPa with the other sign"),
        (1602.0, r"likely in kbar; divide"),
        (-1602.0, r"in kbar with the other sign, as VASP"),
    ],
)
@pytest.mark.parametrize("atoms", CRYSTALS)
def test_wrong_signs_and_units_are_refused_before_anything_is_labelled(atoms, factor, words, tmp_path):
    Told.factor = factor
    with pytest.raises(CompactFFError, match=words):
        run(tmp_path, [atoms])
    assert list(tmp_path.iterdir()) == []  # and what is put right passes
    Told.factor = 1.0
    assert run(tmp_path, [atoms]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.json"]


def test_what_is_asked_for_all_the_same_is_told(tmp_path):
    Told.factor = -1.0
    notes = run(tmp_path, checks={"units": False})
    assert len(notes) == 1 and "the stress of" in notes[0] and "is not the derivative of its ener" in notes[0]
    Told.calls = 0
    assert run(tmp_path) == [] and Told.calls == 0  # once for a run


@pytest.mark.parametrize(("factor", "shift"), [(1.2, 0.0), (0.0, 0.0), (1.0, 0.01)])
def test_another_stress_is_told(factor, shift, tmp_path):
    Told.factor, Told.shift = factor, shift
    notes = run(tmp_path, CRYSTALS[1:])
    assert len(notes) == 1 and "GPa off" in notes[0]


def test_crystals_are_examined_where_others_come_first(tmp_path):
    Told.factor = -1.0
    assert run(tmp_path / "molecules", [molecule("CH4")]) == []
    with pytest.raises(CompactFFError, match="multiply them by -1"):
        run(tmp_path / "both", [molecule("CH4"), CRYSTALS[0]])


def test_failures_on_strained_copies_are_told(tmp_path):
    Told.fail_from = 9
    assert "fails on strained copies: RuntimeError: SCF not converged" in run(tmp_path)[0]


def test_labels_that_were_paid_for_are_not_asked_for_again(tmp_path):
    whole = check_gradient(TEACHER, CRYSTALS[0], journal=Journal(tmp_path / "journal"))
    Told.calls = 0
    assert check_gradient(TEACHER, CRYSTALS[0], journal=Journal(tmp_path / "journal")) == whole
    assert Told.calls == 0 and np.isfinite(whole["stress"]["worst_GPa"])
