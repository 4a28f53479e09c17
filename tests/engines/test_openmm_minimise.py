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


def test_massless_particles_stay_and_constraints_hold():
    made = springs(ethanol())
    made.system.setParticleMass(0, 0.0)
    pairs, length_nm = [(1, 2), (1, 3), (2, 3)], 0.15
    for i, j in pairs:
        made.system.addConstraint(i, j, length_nm)
    positions_A = made.structure.positions_A * 1.05
    held = context(made.system, positions_A)
    assert minimise(held)
    moved_A = held.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(moved_A[0], positions_A[0], rtol=1e-14)
    for i, j in pairs:
        assert np.linalg.norm(moved_A[i] - moved_A[j]) == pytest.approx(10.0 * length_nm, abs=1e-6)
    assert np.linalg.norm(moved_A - positions_A, axis=1).max() > 0.02
    lowest, rng = energy_and_forces(held)[0], np.random.default_rng(0)
    for _ in range(20):
        step_A = rng.normal(scale=0.02, size=moved_A.shape)
        step_A[0] = 0.0
        held.setPositions((moved_A + step_A) / 10.0)
        held.applyConstraints(1e-8)
        assert energy_and_forces(held)[0] > lowest


def test_virtual_sites_go_with_their_atoms():
    made = springs(ethanol())
    site = made.system.addParticle(0.0)
    made.system.setVirtualSite(site, openmm.TwoParticleAverageSite(0, 1, 0.25, 0.75))
    pull = openmm.HarmonicBondForce()
    pull.addBond(site, 8, 0.2, 5e4)
    made.system.addForce(pull)
    strained = context(made.system, np.vstack([made.structure.positions_A * 1.05, np.zeros(3)]))
    strained.computeVirtualSites()
    assert minimise(strained)
    moved_A = strained.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(moved_A[site], 0.25 * moved_A[0] + 0.75 * moved_A[1], atol=1e-9)
