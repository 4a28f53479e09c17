from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from compactff_md.training.labelling import Labeller
from compactff_md.training.modes import hessian, thermal_displacement

WELL = np.array([4.0, 9.0, 25.0])  # eV/A^2 along x, y, z


class Well(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        x = atoms.positions
        self.results = {"energy": 0.5 * float((WELL * x**2).sum()), "forces": -WELL * x}


def labeller(calculator) -> Labeller:
    return Labeller(SimpleNamespace(name="test", settings={}, calculator=calculator))


def test_second_derivatives_of_a_known_well_cost_one_call_a_coordinate():
    made = labeller(Well)
    matrix, labelled = hessian(ase.Atoms("H2", positions=np.zeros((2, 3))), made)
    assert matrix == pytest.approx(np.diag([*WELL, *WELL]))
    assert made.counts.calls == len(labelled) == 7


def test_displacements_have_the_temperature_of_the_stiff_modes():
    rng = np.random.default_rng(0)
    matrix = np.diag([1e-6, 2e-6, 3e-6, *WELL])
    moved = np.array([thermal_displacement(matrix, 300.0, False, rng).ravel() for _ in range(4000)])
    assert np.allclose(moved[:, :3], 0)
    assert WELL * (moved[:, 3:] ** 2).mean(0) == pytest.approx([units.kB * 300.0] * 3, rel=0.1)


def test_a_molecule_neither_moves_nor_turns_as_a_whole():
    atoms = molecule("H2O")
    matrix, _ = hessian(atoms, labeller(EMT))
    moved = thermal_displacement(matrix, 300.0, True, np.random.default_rng(1))
    assert np.abs(moved.mean(0)).max() < 0.02
    assert np.linalg.norm(moved) > 1e-3
