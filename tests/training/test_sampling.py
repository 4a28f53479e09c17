import tracemalloc
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.training.asking import answered
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import Labeller
from compactff_md.training.planning import plan_chains
from compactff_md.training.recipe_files import make_config
from compactff_md.training.sampling import (
    Phase,
    descend,
    langevin,
    random_strain,
    rattle_walk,
    rattled,
    relax,
    separation_A,
    strained,
    thermal_velocities,
)

STIFFNESS = 5.0  # eV/A^2


class Springs(Calculator):
    """Every atom is held at the origin by a spring."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        x = atoms.positions
        self.results = {"energy": 0.5 * STIFFNESS * float((x**2).sum()), "forces": -STIFFNESS * x}


def labeller(calculator=EMT) -> Labeller:
    return Labeller(SimpleNamespace(name="test", settings={}, calculator=calculator))


def sampling(**fields) -> SamplingConfig:
    return make_config(SamplingConfig, fields)


def test_every_chain_has_its_own_name_and_seed():
    specs = plan_chains(3, sampling(frames=600), seed=5)
    assert len({s.name for s in specs}) == len({s.seed for s in specs}) == len(specs)
    training = [s for s in specs if s.purpose == "train"]
    assert sum(s.frames for s in training) == 600
    assert len(training) == 3 * 3 * 2
    assert {s.temperature_K for s in training} == {300.0, 600.0, 1000.0}
    for purpose in ("test_300K", "test_600K"):
        assert sum(s.frames for s in specs if s.purpose == purpose) == 100
    assert specs == plan_chains(3, sampling(frames=600), seed=5)
    assert {s.seed for s in specs}.isdisjoint(s.seed for s in plan_chains(3, sampling(frames=600), seed=6))


def test_many_structures_share_the_temperatures():
    specs = [s for s in plan_chains(50, sampling(frames=500), seed=0) if s.purpose == "train"]
    assert len(specs) == 50
    assert sorted({s.members for s in specs}) == [(k,) for k in range(50)]
    temperatures = [s.temperature_K for s in specs]
    assert min(temperatures.count(t) for t in (300.0, 600.0, 1000.0)) >= 16
    few = [s for s in plan_chains(50, sampling(frames=10), seed=0) if s.purpose == "train"]
    assert (len(few), sum(s.frames for s in few)) == (10, 10)


def test_given_structures_are_dealt_once():
    specs = plan_chains(230, sampling(mode="given"), seed=1)
    members = [m for s in specs for m in s.members]
    assert sorted(members) == list(range(230))
    assert sum(len(s.members) for s in specs if s.purpose == "test") == 23
    with pytest.raises(CompactFFError, match="expected at least 4 with mode 'given'"):
        plan_chains(3, sampling(mode="given"), seed=1)


def test_langevin_has_the_temperature_of_a_harmonic_well():
    rng = np.random.default_rng(0)
    atoms = ase.Atoms("HOC" * 20, positions=np.zeros((60, 3)))
    made = labeller(Springs)
    config = sampling(friction_per_fs=0.05)
    phase = Phase(atoms.positions, thermal_velocities(atoms.get_masses(), 300.0, rng), made.label(atoms))
    phase = answered(langevin(atoms, phase, 300.0, 100, config, rng), made)
    squares = []
    for _ in range(100):
        phase = answered(langevin(atoms, phase, 300.0, 4, config, rng), made)
        squares.append((phase.positions_A**2).mean())
    assert STIFFNESS * np.mean(squares) == pytest.approx(units.kB * 300.0, rel=0.1)
    assert made.counts.calls == 1 + 500


def test_velocities_have_the_temperature_and_no_drift():
    masses = np.full(3000, 12.0)
    v = thermal_velocities(masses, 500.0, np.random.default_rng(0))
    assert (masses[:, None] * v**2).mean() == pytest.approx(units.kB * 500.0, rel=0.05)
    assert np.allclose((masses[:, None] * v).sum(0), 0, atol=1e-9)


def test_relaxation_goes_down():
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    made = labeller()
    relaxed = relax(atoms, made, 100, "structure 0")
    assert made.label(relaxed).max_force_eV_per_A < 0.1
    with pytest.raises(CompactFFError, match="structure 1: the teacher test fails on it"):
        relax(ase.Atoms("U2", positions=np.eye(3)[:2] * 3), made, 10, "structure 1")


class Brittle(EMT):
    """Raises, or gives NaN, from its third call on."""

    calls, gives_nan = 0, False

    def calculate(self, *arguments, **options):
        Brittle.calls += 1
        if Brittle.calls > 2 and not Brittle.gives_nan:
            raise RuntimeError("SCF not converged")
        super().calculate(*arguments, **options)
        if Brittle.calls > 2:
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


@pytest.mark.parametrize("gives_nan", [True, False])
def test_a_relaxation_ends_where_the_teacher_could_still_label(monkeypatch, gives_nan):
    monkeypatch.setattr(Brittle, "calls", 0)
    monkeypatch.setattr(Brittle, "gives_nan", gives_nan)
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    made, whole = labeller(Brittle), labeller()
    relaxed = relax(atoms, made, 100, "structure 0")
    assert np.array_equal(relaxed.positions, relax(atoms, whole, 1, "structure 0").positions)
    assert (made.counts.calls, whole.counts.calls) == (3, 2)
    assert ("not finite" if gives_nan else "SCF not converged") in made.counts.last_failure
    assert whole.counts.last_failure == ""


def test_a_relaxation_ends_with_its_time():
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    made = labeller()
    assert np.array_equal(relax(atoms, made, 100, "structure 0", 0.0).positions, atoms.positions)
    assert made.counts.calls == 1


def test_rattled_copies_keep_their_distance():
    atoms = molecule("CH3CH2OH")
    config = sampling(rattle_sigma_A=[0.5, 0.6])
    rng = np.random.default_rng(0)
    copies = [rattled(atoms, config, rng) for _ in range(20)]
    kept = [copy for copy in copies if copy is not None]
    assert kept
    assert min(separation_A(copy) for copy in kept) >= 0.5
    atoms.positions[1] = atoms.positions[0] + 0.1
    assert rattled(atoms, sampling(), rng) is None


def test_separation_counts_images():
    assert separation_A(bulk("Cu", cubic=True)) == pytest.approx(3.61 / 2**0.5)
    across = ase.Atoms("H2", positions=[[0.1, 0, 0], [2.9, 0, 0]], cell=[3, 3, 3], pbc=True)
    assert separation_A(across) == pytest.approx(0.2)
    assert separation_A(ase.Atoms("H")) == float("inf")


def test_separation_is_the_smallest_of_all_distances():
    for distance_A in (0.0, 1e-9, 0.3, 5.0, 50.0, 1e3, 1e7):
        assert separation_A(ase.Atoms("H2", [[0, 0, 0], [distance_A, 0, 0]])) == pytest.approx(distance_A)
    rng = np.random.default_rng(0)
    images = np.indices((19, 19, 19)).reshape(3, -1).T - 9.0
    first, second = np.triu_indices(4, 1)
    for _ in range(30):
        cell = 5.0 * np.eye(3) + rng.normal(0, 0.7, (3, 3))
        atoms = ase.Atoms("H4", rng.uniform(-9, 9, (4, 3)), cell=cell, pbc=rng.random(3) < 0.6)
        apart = (atoms.positions[first] - atoms.positions[second])[:, None] + images * atoms.pbc @ cell
        assert separation_A(atoms) == pytest.approx(np.linalg.norm(apart, axis=2).min())


def test_separation_of_many_atoms_makes_no_table_of_all_pairs():
    atoms = bulk("Cu", cubic=True) * (7, 7, 7)
    tracemalloc.start()
    try:
        assert separation_A(atoms) == pytest.approx(3.61 / 2**0.5)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(atoms) ** 2  # bytes; all pairs take 80 each
    finally:
        tracemalloc.stop()


def test_strain_keeps_free_directions():
    rng = np.random.default_rng(0)
    strain = random_strain(np.array([True, True, False]), 0.05, rng)
    assert np.array_equal(strain, strain.T)
    assert np.abs(strain).max() <= 0.05
    assert not strain[2].any() and strain[:2, :2].any()
    crystal = bulk("Cu", cubic=True)
    larger = strained(crystal, 0.1 * np.eye(3))
    assert larger.get_volume() == pytest.approx(1.331 * crystal.get_volume())
    assert np.allclose(larger.get_scaled_positions(), crystal.get_scaled_positions())


def test_a_rattle_walk_labels_every_copy_once_and_drops_large_forces():
    atoms = bulk("Cu", cubic=True)
    made = labeller()
    kept = rattle_walk(atoms, sampling(rattles=5), made, np.random.default_rng(0))
    assert (len(kept), made.counts.calls, made.counts.attempts) == (5, 5, 5)
    for copy, label in kept:
        copy.calc = EMT()
        assert label.energy_eV == pytest.approx(copy.get_potential_energy())
    limited = sampling(rattles=5, max_force_eV_per_A=1e-3)
    assert rattle_walk(atoms, limited, made, np.random.default_rng(0)) == []
    assert made.counts.rejected == 5


def test_a_step_down_lowers_the_energy():
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    made = labeller()
    label = made.label(atoms)
    assert made.label(descend(atoms, label)).energy_eV < label.energy_eV
