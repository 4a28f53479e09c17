"""Which structures to label: Langevin dynamics with the teacher, and rattled copies beside it.

A teacher call costs far more than anything else here, so all that it computes is used: the forces that
move the atoms are the labels of the frames.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase import units
from ase.geometry import get_distances
from ase.optimize import LBFGS

from compactff_md.engines.cell_rescaling import log_volume_step
from compactff_md.errors import CompactFFError
from compactff_md.neighbours import pair_list
from compactff_md.structure import Structure
from compactff_md.training.asking import Asking
from compactff_md.training.config import SamplingConfig
from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller, TeacherFailure

RELAX_FMAX_EV_PER_A = 0.1
DESCENT_A2_PER_EV = 0.02  # about one over the stiffness of a bond, 50 eV/A^2
DESCENT_LIMIT_A = 0.1
SHRINK_TRIES = 6
# Within these the nearest atoms are looked for; where all are farther apart, or flew away, they are few.
RADII_A = (2.0, 4.0, 8.0, 16.0)
WIDE_A = 1e4  # vesin ends the process with a division by zero (SIGFPE) on lines of 5e5 A


@dataclass(frozen=True)
class Phase:
    """Positions in A and velocities in ASE's unit, both (N, 3), and the label at these positions.

    ``cell_A``, shape (3, 3), is None where the cell does not change.
    """

    positions_A: np.ndarray
    velocities: np.ndarray
    label: Label
    cell_A: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray | float]:
        """All of it by name, without what is None."""
        parts = {
            "positions": self.positions_A,
            "velocities": self.velocities,
            "cell": self.cell_A,
            "energy": self.label.energy_eV,
            "forces": self.label.forces_eV_per_A,
            "stress": self.label.stress_eV_per_A3,
        }
        return {name: value for name, value in parts.items() if value is not None}


def relax(
    atoms: ase.Atoms, labeller: Labeller, max_steps: int, name: str, time_limit_s: float | None = None
) -> ase.Atoms:
    """Go down to forces below 0.1 eV/A or as far as steps and time reach; the cell stays.

    Where the teacher fails on the way, the last structure that it could label is returned, and
    ``labeller.counts.last_failure`` says why.

    Raises
    ------
    CompactFFError
        If the teacher fails on the structure as it is given.
    """
    started = time.monotonic()
    relaxed = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    try:
        label = labeller.label(relaxed)
    except (CompactFFError, TeacherFailure) as error:
        raise CompactFFError(
            f"{name}: the teacher {labeller.teacher.name} fails on it ({error}); check the structure, its "
            "charge and multiplicity"
        ) from error
    optimiser = LBFGS(relaxed, logfile=os.devnull)
    for _ in range(max_steps):
        out_of_time = time_limit_s is not None and time.monotonic() - started > time_limit_s
        if out_of_time or label.max_force_eV_per_A < RELAX_FMAX_EV_PER_A:
            break
        reached = relaxed.positions.copy()
        try:
            optimiser.step()  # along the forces of the label, which the calculator keeps
            label = labeller.label(relaxed)
        except Exception as error:  # whatever a calculator raises that does not keep them
            labeller.counts.last_failure = str(error)
            relaxed.positions = reached
            break
    return relaxed


def thermal_velocities(masses_u: np.ndarray, temperature_K: float, rng: np.random.Generator) -> np.ndarray:
    """Maxwell-Boltzmann velocities in ASE's unit without drift, shape (N, 3)."""
    velocities = (
        rng.standard_normal((len(masses_u), 3)) * np.sqrt(units.kB * temperature_K / masses_u)[:, None]
    )
    return velocities - (masses_u[:, None] * velocities).sum(0) / masses_u.sum()


def langevin(
    atoms: ase.Atoms,
    phase: Phase,
    temperature_K: float,
    steps: int,
    config: SamplingConfig,
    rng: np.random.Generator,
    pressure_bar: float | None = None,
) -> Asking[Phase]:
    """Move by Langevin dynamics, asking for one label a step; at constant pressure where one is given.

    BAOAB splitting (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34): its positions have the
    Boltzmann distribution to second order in the step, exactly so for harmonic forces.

    Raises
    ------
    TeacherFailure
        If a label cannot be had.
    """
    masses = sampling_masses(atoms, config)[:, None]
    dt = config.timestep_fs * units.fs
    keep = np.exp(-config.friction_per_fs * config.timestep_fs)
    kick = np.sqrt((1 - keep**2) * units.kB * temperature_K / masses)
    x, v, label = phase.positions_A, phase.velocities, phase.label
    if phase.cell_A is not None:
        atoms.set_cell(phase.cell_A)
    for _ in range(steps):
        v = v + 0.5 * dt * label.forces_eV_per_A / masses
        x = x + 0.5 * dt * v
        v = keep * v + kick * rng.standard_normal(v.shape)
        if pressure_bar is not None:
            x = rescale(atoms, x, label, temperature_K, pressure_bar, config.timestep_fs, rng)
        x = x + 0.5 * dt * v
        atoms.positions = x
        label = yield atoms
        v = v + 0.5 * dt * label.forces_eV_per_A / masses
    return Phase(x, v, label, None if pressure_bar is None else atoms.cell.array.copy())


def rescale(
    atoms: ase.Atoms,
    positions_A: np.ndarray,
    label: Label,
    temperature_K: float,
    pressure_bar: float,
    timestep_fs: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scale the cell of ``atoms`` in place for a step at constant pressure; return the scaled positions.

    Raises
    ------
    CompactFFError
        If the label has no stress.
    """
    if label.stress_eV_per_A3 is None:
        raise CompactFFError(
            "constant pressure needs a teacher with a stress and a structure that is periodic in all "
            "directions; use ensemble nvt"
        )
    change = log_volume_step(
        atoms.get_volume(),
        label.stress_eV_per_A3,
        len(atoms),
        temperature_K,
        pressure_bar,
        timestep_fs,
        rng,
    )
    factor = np.exp(change / 3.0)
    atoms.set_cell(factor * atoms.cell.array)
    return factor * positions_A


def sampling_masses(atoms: ase.Atoms, config: SamplingConfig) -> np.ndarray:
    """Masses for the dynamics, shape (N,): the light atoms are made heavier."""
    return np.maximum(atoms.get_masses(), config.minimum_mass_u)


def rattled(atoms: ase.Atoms, config: SamplingConfig, rng: np.random.Generator) -> ase.Atoms | None:
    """Displaced copy with a strained cell if periodic; None where atoms come too close all the same.

    The displacement is halved up to six times until no two atoms are closer than
    ``min_separation_A``.
    """
    low, high = np.log(config.rattle_sigma_A)
    noise = np.exp(rng.uniform(low, high)) * rng.standard_normal((len(atoms), 3))
    strain = random_strain(atoms.pbc, config.max_strain, rng)
    for shrink in range(SHRINK_TRIES):
        trial = strained(atoms, strain * 0.5**shrink)
        trial.positions += noise * 0.5**shrink
        if separation_A(trial) >= config.min_separation_A:
            return trial
    return None


def random_strain(pbc: np.ndarray, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Symmetric strain, shape (3, 3), entries within +-``largest``, zero along directions without period."""
    entries = rng.uniform(-largest, largest, (3, 3))
    return 0.5 * (entries + entries.T) * np.outer(pbc, pbc)


def strained(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    """Copy whose cell and positions are deformed by ``1 + strain``."""
    deform = np.eye(3) + strain
    return ase.Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions @ deform,
        cell=atoms.cell.array @ deform,
        pbc=atoms.pbc,
    )


def separation_A(atoms: ase.Atoms) -> float:
    """Smallest distance between two atoms, in A; infinite for a single one."""
    if len(atoms) < 2:
        return float("inf")
    structure = Structure.from_ase(atoms)
    for radius_A in RADII_A if np.ptp(atoms.positions, axis=0).max() < WIDE_A else ():
        i, j, distances, _ = pair_list(structure, radius_A)
        others = distances[i != j]  # an atom's own images do not count
        if len(others):
            return float(others.min())
    _, distances = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    return float(distances[np.triu_indices(len(atoms), 1)].min())


def descend(atoms: ase.Atoms, label: Label) -> ase.Atoms:
    """Copy moved one capped step down the forces, towards where the next rattle starts."""
    step = np.clip(DESCENT_A2_PER_EV * label.forces_eV_per_A, -DESCENT_LIMIT_A, DESCENT_LIMIT_A)
    lower: Any = strained(atoms, np.zeros((3, 3)))
    lower.positions += step
    return lower


def rattle_walk(
    atoms: ase.Atoms, config: SamplingConfig, labeller: Labeller, rng: np.random.Generator
) -> list[tuple[ase.Atoms, Label]]:
    """Rattle, label, relax a little, repeat: up to ``config.rattles`` labelled copies, one call each."""
    counts = labeller.counts
    kept = []
    for _ in range(config.rattles):
        counts.attempts += 1
        trial = rattled(atoms, config, rng)
        if trial is None:
            counts.rejected += 1
            continue
        try:
            label = labeller.label(trial)
        except TeacherFailure:
            counts.failures += 1
            continue
        if label.max_force_eV_per_A > config.max_force_eV_per_A:
            counts.rejected += 1
            continue
        kept.append((trial, label))
        atoms = descend(trial, label)
    return kept
