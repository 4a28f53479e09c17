from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.frames import Frame
from compactff_md.training.liquids import fill_box
from compactff_md.training.teacher_check import (
    check_gradient,
    check_labels_are_its_own,
    gradient_warning,
    open_shell_warning,
    periodic_warning,
)


class Wrong(EMT):
    """Forces that are no gradient: a tenth too large."""

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = 1.1 * self.results["forces"]


class Broken(EMT):
    def calculate(self, atoms=None, properties=None, system_changes=None):
        raise RuntimeError("SCF not converged")


def teacher(calculator=EMT, name="test", **settings) -> SimpleNamespace:
    return SimpleNamespace(name=name, version="1", settings=settings, calculator=calculator)


def test_a_gradient_passes_and_something_else_is_told():
    found = check_gradient(teacher(), molecule("CH3OH"))
    assert found["ok"] and found["calls"] == 7 and gradient_warning(teacher(), found) == ""
    found = check_gradient(teacher(Wrong), molecule("CH3OH"))
    assert not found["ok"]
    assert "are not the gradient of its energy" in gradient_warning(teacher(Wrong), found)
    found = check_gradient(teacher(Broken), molecule("CH3OH"))
    assert "fails on the first structure: RuntimeError: SCF" in gradient_warning(teacher(Broken), found)


def test_odd_numbers_of_electrons_are_told_where_shells_are_closed():
    radical, closed = molecule("CH3"), molecule("CH4")
    xtb = teacher(name="gfn2-xtb")
    assert "1 of 2 structures, the first is 1," in open_shell_warning(xtb, [closed, radical])
    assert open_shell_warning(xtb, [closed]) == ""
    assert open_shell_warning(teacher(name="gfn2-xtb", charge=1), [radical]) == ""
    assert open_shell_warning(teacher(name="gfn2-xtb", multiplicity=2), [radical]) == ""
    assert open_shell_warning(teacher(name="chgnet"), [radical]) == ""


def test_gfn2_is_warned_of_where_a_structure_is_periodic():
    free, box = molecule("CH3OH"), molecule("CH3OH", cell=[8.0] * 3, pbc=True)
    assert "gfn1-xtb" in periodic_warning(teacher(name="gfn2-xtb"), [free, box])
    assert periodic_warning(teacher(name="gfn2-xtb"), [free]) == ""
    assert periodic_warning(teacher(name="gfn1-xtb"), [box]) == ""


def test_gfn2_is_still_to_be_warned_of():
    """Once this fails, tblite has mended its periodic GFN2-xTB, and the warning can go."""
    tblite = pytest.importorskip("tblite.ase")
    rng = np.random.default_rng(0)
    box = fill_box([molecule("H2O") for _ in range(16)], 0.8, rng)
    free = box.copy()
    free.pbc = False
    wide = free.copy()
    wide.set_cell([16.0] * 3)
    wide.pbc = True
    found = {}
    for method in ("GFN1-xTB", "GFN2-xTB"):
        for atoms in (free, wide):
            atoms.calc = tblite.TBLite(method=method, verbosity=0)
        found[method] = (wide.get_potential_energy() - free.get_potential_energy()) / 16
    assert (
        abs(found["GFN1-xTB"]) < 0.01 < found["GFN2-xTB"]
    )  # eV a molecule, of a droplet far from its images


def labelled(shift_eV: float) -> Frame:
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy() + shift_eV, atoms.get_forces()
    return Frame(Structure.from_ase(atoms), energy, forces, name="a.xyz frame 0")


def test_labels_of_another_teacher_are_refused():
    check_labels_are_its_own(teacher(), [labelled(0.0)])
    with pytest.raises(CompactFFError, match=r"a.xyz frame 0 was labelled by another teacher than test 1"):
        check_labels_are_its_own(teacher(), [labelled(1.0)])
