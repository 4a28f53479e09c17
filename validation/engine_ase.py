"""Dynamics of any ASE calculator: the teacher's, and the student's where no other engine is asked for."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import BaseCalculator

from compactff_md.engines.cell_rescaling import log_volume_step
from compactff_md.engines.md_velocities import (
    at_rest,
    at_temperature,
    degrees_of_freedom,
    maxwell_boltzmann,
    runaway_temperature_K,
)
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.units import NM_TO_A
from compactff_md.validation.run import Run
from compactff_md.validation.task import State, Task, Tick

# A force in eV/A on a dalton, as acceleration in A/fs^2.
ACCELERATION = units.fs**2
# nm/ps in A/fs.
NM_PER_PS = 0.01
EQUILIBRATION_FRICTION_PER_PS = 10.0
# What calculators raise on atoms that make no sense; ASE's own are RuntimeErrors.
UNSOUND = (CompactFFError, RuntimeError, ArithmeticError, np.linalg.LinAlgError)


class ASEEngine:
    """Runs an ASE calculator.

    Parameters
    ----------
    calculator
        Any; it is kept between runs.
    name
        For reports.
    """

    def __init__(self, calculator: BaseCalculator, name: str = "ase") -> None:
        self.calculator = calculator
        self.name = name

    def single_point(self, structure: Structure) -> tuple[float, np.ndarray]:
        """Energy in eV and forces in eV/A, shape (N, 3)."""
        atoms = structure.to_ase()
        atoms.calc = self.calculator
        return float(atoms.get_potential_energy()), np.array(atoms.get_forces())

    def run(
        self, structure: Structure, task: Task, start: State | None = None, tick: Tick | None = None
    ) -> Run:
        """Run a task; see :class:`compactff_md.validation.task.Engine`."""
        atoms = structure.to_ase()
        atoms.calc = self.calculator
        rng = np.random.default_rng(task.seed)
        mover = _Mover(atoms, task, rng)
        recorder = _Recorder(atoms, mover, task)
        try:
            mover.begin(start)
            recorder.keep()
            for step in range(1, task.steps + 1):
                mover.step()
                if step % task.every == 0:
                    recorder.keep()
                    if tick is not None:
                        tick(step)
        except UNSOUND as error:
            recorder.failure = f"at step {recorder.steps_kept(task)}: {error}"
        return recorder.result(task, self.name)


class _Mover:
    """BAOAB (Leimkuhler, Matthews, J. Chem. Phys. 138, 174102 (2013)); velocity Verlet without friction."""

    def __init__(self, atoms: ase.Atoms, task: Task, rng: np.random.Generator) -> None:
        self.atoms, self.task, self.rng = atoms, task, rng
        self.masses = atoms.get_masses()
        self.free = not atoms.pbc.any()
        self.velocities = np.zeros((len(atoms), 3))
        nve = task.ensemble == "nve"
        moving = degrees_of_freedom(atoms.positions / NM_TO_A, stop_rotation=self.free)
        self.dof = moving if nve else 3 * len(atoms)
        self.hottest_K = runaway_temperature_K(task.temperature_K, max(self.dof, 1))
        self.friction_per_ps = 0.0 if nve else task.friction_per_ps

    def begin(self, start: State | None) -> None:
        """Take the state, or draw velocities and equilibrate."""
        task, nm = self.task, self.atoms.positions / NM_TO_A
        if start is not None:
            self.atoms.positions[:] = start.positions_A
            self.velocities = np.array(start.velocities_A_per_fs, dtype=np.float64)
            self.forces = self.atoms.get_forces()
            return
        drawn = maxwell_boltzmann(self.masses, nm, task.temperature_K, task.seed, stop_rotation=self.free)
        self.velocities = drawn * NM_PER_PS
        self.forces = self.atoms.get_forces()
        wanted, self.friction_per_ps = self.friction_per_ps, EQUILIBRATION_FRICTION_PER_PS
        for _ in range(task.equilibration_steps):
            self.step()
        self.friction_per_ps = wanted
        if task.ensemble == "nve":
            self.velocities = at_rest_at(self.atoms, self.velocities, task.temperature_K)

    def step(self) -> None:
        """One timestep, one evaluation."""
        dt = self.task.timestep_fs
        kick = 0.5 * dt * ACCELERATION / self.masses[:, None]
        velocities = self.velocities + kick * self.forces
        positions = self.atoms.positions + 0.5 * dt * velocities
        if self.friction_per_ps:
            keep = np.exp(-self.friction_per_ps * dt / 1000.0)
            width = np.sqrt((1 - keep**2) * units.kB * self.task.temperature_K * ACCELERATION / self.masses)
            velocities = keep * velocities + width[:, None] * self.rng.normal(size=velocities.shape)
        # Before the atoms move: forces and stress are asked for once a step.
        change = self._log_volume_step() if self.task.pressure_bar is not None else 0.0
        self.atoms.set_positions(positions + 0.5 * dt * velocities)
        if change:
            self.atoms.set_cell(self.atoms.cell.array * np.exp(change / 3.0), scale_atoms=True)
        self.forces = self.atoms.get_forces()
        self.velocities = velocities + kick * self.forces
        if not np.isfinite(self.forces).all():
            raise CompactFFError("forces are not finite")

    def _log_volume_step(self) -> float:
        """What the barostat adds to the logarithm of the volume; cell and positions grow alike."""
        atoms, task = self.atoms, self.task
        assert task.pressure_bar is not None
        return log_volume_step(
            atoms.get_volume(),
            atoms.get_stress(voigt=False),
            len(atoms),
            task.temperature_K,
            task.pressure_bar,
            task.timestep_fs,
            self.rng,
        )

    def kinetic_eV(self) -> float:
        """Kinetic energy of velocities and positions of the same time."""
        return kinetic_eV(self.velocities, self.masses)


class _Recorder:
    """Frames of a run as they come."""

    def __init__(self, atoms: ase.Atoms, mover: _Mover, task: Task) -> None:
        self.atoms, self.mover, self.every = atoms, mover, task.every
        self.rows: list[tuple[Any, ...]] = []
        self.failure = ""

    def keep(self) -> None:
        """Record the moment; refuse one that makes no sense."""
        mover = self.mover
        kinetic, potential = mover.kinetic_eV(), float(self.atoms.get_potential_energy())
        temperature = 2 * kinetic / (max(mover.dof, 1) * units.kB)
        if not np.isfinite(kinetic + potential):
            raise CompactFFError(f"energies are {potential} and {kinetic} eV: not finite")
        if temperature > mover.hottest_K:
            raise CompactFFError(f"temperature is {temperature:.0f} K, the limit {mover.hottest_K:.0f} K")
        frame = (self.atoms.positions.copy(), mover.velocities.copy(), np.array(mover.forces))
        self.rows.append((potential, kinetic, *frame, self.atoms.cell.array.copy()))

    def steps_kept(self, task: Task) -> int:
        """Step of the last frame that made sense."""
        return max(0, len(self.rows) - 1) * task.every

    def result(self, task: Task, engine: str) -> Run:
        """Everything that was recorded; one frame at least, of the start, where even that failed."""
        if not self.rows:
            nothing = np.zeros((len(self.atoms), 3))
            start = self.atoms.positions.copy(), nothing, nothing, self.atoms.cell.array.copy()
            self.rows.append((np.nan, np.nan, *start))
        potential, kinetic, positions, velocities, forces, cells = (
            np.array(part) for part in zip(*self.rows, strict=True)
        )
        count = len(self.rows)
        return Run(
            time_ps=np.arange(count) * task.every * task.timestep_fs / 1000.0,
            potential_eV=potential,
            kinetic_eV=kinetic,
            positions_A=positions,
            velocities_A_per_fs=velocities,
            numbers=self.atoms.numbers.copy(),
            cell_A=cells,
            pbc=self.atoms.pbc.copy(),
            masses_Da=self.mover.masses,
            timestep_fs=task.timestep_fs,
            temperature_K=task.temperature_K,
            dof=self.mover.dof,
            engine=engine,
            failure=self.failure,
            forces_eV_per_A=forces,
        )


def kinetic_eV(velocities_A_per_fs: np.ndarray, masses_Da: np.ndarray) -> float:
    """Kinetic energy, of velocities of shape (N, 3)."""
    return 0.5 * float((masses_Da[:, None] * velocities_A_per_fs**2).sum()) / ACCELERATION


def at_rest_at(
    atoms: ase.Atoms | Structure, velocities_A_per_fs: np.ndarray, temperature_K: float
) -> np.ndarray:
    """Velocities without drift and, for free atoms, rotation, scaled to a temperature; A/fs, shape (N, 3)."""
    atoms = atoms.to_ase() if isinstance(atoms, Structure) else atoms
    masses, nm, free = atoms.get_masses(), atoms.positions / NM_TO_A, not atoms.pbc.any()
    velocities = at_rest(velocities_A_per_fs / NM_PER_PS, masses, nm, stop_rotation=free)
    dof = degrees_of_freedom(nm, stop_rotation=free)
    return at_temperature(velocities, masses, temperature_K, dof) * NM_PER_PS
