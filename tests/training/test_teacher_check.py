from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.frames import Frame
from compactff_md.training.teacher_check import (
    charge_warning,
    check_gradient,
    check_labels_are_its_own,
    gradient_warning,
    open_shell_warning,
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
    assert "fails on one of the structures: RuntimeError: SCF" in gradient_warning(teacher(Broken), found)


def test_odd_numbers_of_electrons_are_told_where_shells_are_closed():
    radical, closed = molecule("CH3"), molecule("CH4")
    xtb = teacher(name="gfn2-xtb")
    assert "1 of 2 structures, the first is 1," in open_shell_warning(xtb, [closed, radical])
    assert open_shell_warning(xtb, [closed]) == ""
    assert open_shell_warning(teacher(name="gfn2-xtb", charge=1), [radical]) == ""
    assert open_shell_warning(teacher(name="gfn2-xtb", multiplicity=2), [radical]) == ""
    assert open_shell_warning(teacher(name="chgnet"), [radical]) == ""


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
    check_labels_are_its_own(teacher(), [])  # of a file of isolated atoms


def test_ions_among_smiles_are_told(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "some.smi"
    path.write_text("CCO\nCC(=O)[O-]\n[NH3+]CC(=O)[O-]\nnonsense\nCC(=O)O\n")
    told = charge_warning(teacher(), path)
    assert "1 of 5 molecules in some.smi, the first is CC(=O)[O-], are not of charge 0" in told
    told = charge_warning(teacher(charge=-1), path)
    assert "3 of 5 molecules in some.smi, the first is CCO, are not of charge -1" in told
    path.write_text("CCO\n")
    assert charge_warning(teacher(), path) == ""
