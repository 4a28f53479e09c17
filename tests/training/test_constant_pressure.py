from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator

from compactff_md.engines.cell_rescaling import log_volume_step
from compactff_md.errors import CompactFFError
from compactff_md.training.asking import answered
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import Labeller
from compactff_md.training.sampling import Phase, langevin, rescale, thermal_velocities


class IdealGas(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_an_ideal_gas_has_the_volume_of_the_gas_law():
    """Its volume has the distribution V^N exp(-PV/kT): mean (N + 1) kT/P."""
    rng = np.random.default_rng(0)
    num, temperature_K, pressure_bar = 20, 300.0, 2e5
    expected = (num + 1) * units.kB * temperature_K / (pressure_bar * units.bar)
    log_volume, total, count = np.log(expected), 0.0, 0
    for step in range(20_000):
        log_volume += log_volume_step(
            np.exp(log_volume), np.zeros((3, 3)), num, temperature_K, pressure_bar, 5.0, rng
        )
        if step > 1000:
            total, count = total + np.exp(log_volume), count + 1
    assert total / count == pytest.approx(expected, rel=0.1)


def test_a_compressed_cell_grows_and_fractions_stay():
    rng = np.random.default_rng(0)
    atoms = Atoms("Ar4", scaled_positions=rng.random((4, 3)), cell=[6, 6, 6], pbc=True)
    made = Labeller(SimpleNamespace(name="gas", settings={}, calculator=IdealGas))
    label = made.label(atoms)
    squeezed = type(label)(0.0, label.forces_eV_per_A, -0.05 * np.eye(3))
    before = atoms.get_scaled_positions()
    atoms.positions = rescale(atoms, atoms.positions, squeezed, 1e-6, 1.0, 2.0, rng)
    assert atoms.get_volume() > 216.0
    assert np.allclose(atoms.get_scaled_positions(), before)


def test_dynamics_at_constant_pressure_bring_their_cell_along():
    rng = np.random.default_rng(0)
    atoms = Atoms("Ar4", scaled_positions=rng.random((4, 3)), cell=[6, 6, 6], pbc=True)
    made = Labeller(SimpleNamespace(name="gas", settings={}, calculator=IdealGas))
    config = SamplingConfig()
    velocities = thermal_velocities(atoms.get_masses(), 300.0, rng)
    phase = Phase(atoms.positions.copy(), velocities, made.label(atoms))
    phase = answered(langevin(atoms, phase, 300.0, 20, config, rng, pressure_bar=1.0), made)
    assert phase.cell_A is not None and not np.allclose(phase.cell_A, 6 * np.eye(3))
    atoms.set_cell([1, 1, 1])
    answered(langevin(atoms, phase, 300.0, 0, config, rng, pressure_bar=1.0), made)
    assert np.allclose(atoms.cell.array, phase.cell_A)


def test_without_a_stress_there_is_no_constant_pressure():
    made = Labeller(SimpleNamespace(name="gas", settings={}, calculator=IdealGas))
    water = molecule("H2O")
    with pytest.raises(CompactFFError, match="constant pressure needs a teacher with a stress"):
        rescale(water, water.positions, made.label(water), 300.0, 1.0, 1.0, np.random.default_rng(0))
