import numpy as np
import pytest

from compactff_md.engines.openmm_import import openmm, unit
from compactff_md.engines.openmm_minimise import minimise
from compactff_md.engines.openmm_system import prepare
from openmm_builders import box, context, energy_and_forces, ethanol, springs, student


def test_a_strained_molecule_comes_to_rest():
    made = springs(ethanol())
    strained = context(made.system, made.structure.positions_A * 1.05)
    assert energy_and_forces(strained)[0] > 1.0
    assert minimise(strained)
    energy, forces = energy_and_forces(strained)
    assert energy < 1e-2 and np.linalg.norm(forces, axis=1).max() <= 0.05


def test_a_box_goes_downhill():
    ready = prepare(box(), student(), force="python")
    made = context(ready.system, ready.structure.positions_A)
    before = energy_and_forces(made)[0]
    minimise(made)
    assert energy_and_forces(made)[0] < before
    cell = made.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(cell, ready.structure.cell_A)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_energies_that_make_no_sense_end_it(value):
    made = springs(ethanol())
    made.system.addForce(openmm.PythonForce(lambda state: (value, np.full((9, 3), value))))
    assert not minimise(context(made.system, made.structure.positions_A))


def test_it_can_be_stopped():
    made = springs(ethanol())
    strained = context(made.system, made.structure.positions_A * 1.05)
    assert not minimise(strained, stop=lambda: True)
    assert energy_and_forces(strained)[0] > 0.1
