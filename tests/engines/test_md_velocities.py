import ase.build
import numpy as np
import pytest

from compactff_md.engines.md_velocities import (
    degrees_of_freedom,
    kinetic_energy,
    maxwell_boltzmann,
    runaway_temperature_K,
    temperature_of,
)

MOLECULES = {"CH3CH2OH": 27 - 6, "CO2": 9 - 5, "H2": 1, "H": 0, "H2O": 3}


@pytest.mark.parametrize(("name", "dof"), MOLECULES.items())
def test_a_free_molecule_neither_flies_nor_turns(name, dof):
    atoms = ase.build.molecule(name)
    x, masses = atoms.positions / 10, atoms.get_masses()
    v = maxwell_boltzmann(masses, x, 300.0, seed=1, stop_rotation=True)
    assert degrees_of_freedom(x, stop_rotation=True) == dof
    np.testing.assert_allclose((masses[:, None] * v).sum(0), 0, atol=1e-9)
    np.testing.assert_allclose((masses[:, None] * np.cross(x, v)).sum(0), 0, atol=1e-9)
    if dof:
        assert temperature_of(kinetic_energy(v, masses), dof) == pytest.approx(300.0)
    else:
        assert not v.any()


def test_a_box_keeps_its_rotation_and_a_seed_its_numbers():
    x = np.random.default_rng(0).random((50, 3))
    masses = np.full(50, 16.0)
    v = maxwell_boltzmann(masses, x, 500.0, seed=1, stop_rotation=False)
    assert temperature_of(kinetic_energy(v, masses), 147) == pytest.approx(500.0)
    np.testing.assert_array_equal(v, maxwell_boltzmann(masses, x, 500.0, seed=1, stop_rotation=False))
    assert (v != maxwell_boltzmann(masses, x, 500.0, seed=2, stop_rotation=False)).any()
    # sqrt(kT/m) = sqrt(8.314 J/mol/K * 500 K / 0.016 kg/mol) = 509.7 m/s = 0.5097 nm/ps
    assert v.std() == pytest.approx(0.5097, rel=0.03)


def test_nothing_moves_at_0_K():
    assert not maxwell_boltzmann(np.ones(4), np.eye(4, 3), 0.0, seed=0, stop_rotation=True).any()


@pytest.mark.parametrize("dof", [1, 3, 6, 57, 3000])
def test_fluctuations_are_far_below_the_runaway_limit(dof):
    sampled_K = 300.0 * np.random.default_rng(0).chisquare(dof, size=200_000) / dof
    limit_K = runaway_temperature_K(300.0, dof)
    assert sampled_K.max() < limit_K
    assert limit_K >= 2300.0
    assert runaway_temperature_K(300.0, 3000) == 2300.0
