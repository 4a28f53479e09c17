"""Dynamics of any ASE calculator: the teacher's, and the student's where no other engine is asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path
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
from compactff_md.files import atomic_write, read_arrays, unreadable
from compactff_md.structure import Structure
from compactff_md.units import NM_TO_A
from compactff_md.validation.run import Run
from compactff_md.validation.task import State, Task, Tick

# A force in eV/A on a dalton, as acceleration in A/fs^2.
ACCELERATION = units.fs**2
# nm/ps in A/fs.
NM_PER_PS = 0.01
EQUILIBRATION_FRICTION_PER_PS = 10.0
# A run that is not finished is written this often.
SAVE_EVERY_S = 60.0
# Of a recorded frame.
COLUMNS = 6
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
        self,
        structure: Structure,
        task: Task,
        start: State | None = None,
        tick: Tick | None = None,
        unfinished: Path | None = None,
    ) -> Run:
        """Run a task; see :class:`compactff_md.validation.task.Engine`.

        Where ``unfinished`` is given, the run is written to it every minute, and goes on from it where it
        is there: a step of a teacher may take seconds. Whoever keeps the result removes it.

        Raises
        ------
        CompactFFError
            If that file cannot be read.
        """
        atoms = structure.to_ase()
        atoms.calc = self.calculator
        mover = _Mover(atoms, task, start)
        recorder = _Recorder(atoms, mover, task)
        saved = _Saved(unfinished, mover, recorder)
        going_on = saved.read()
        try:
            if not going_on:
                mover.begin()
            while mover.steps_done < 0:
                mover.step()
                saved.write_now_and_then()
            if mover.steps_done == 0:
                mover.settle()
                recorder.keep()
            while mover.steps_done < task.steps:
                mover.step()
                if mover.steps_done % task.every == 0:
                    recorder.keep()
                    if tick is not None:
                        tick(mover.steps_done)
                saved.write_now_and_then()
        except UNSOUND as error:
            recorder.failure = f"at step {recorder.steps_kept(task)}: {error}"
        return recorder.result(task, self.name)


class _Mover:
    """BAOAB (Leimkuhler, Matthews, J. Chem. Phys. 138, 174102 (2013)); velocity Verlet without friction.

    ``steps_done`` is negative during the equilibration, which a run from a state does without.
    """

    def __init__(self, atoms: ase.Atoms, task: Task, start: State | None) -> None:
        self.atoms, self.task, self.start = atoms, task, start
        self.rng = np.random.default_rng([task.seed, 1])  # velocities are drawn with the seed itself
        self.masses = atoms.get_masses()
        self.free = not atoms.pbc.any()
        self.velocities = self.forces = np.zeros((len(atoms), 3))
        self.steps_done = 0 if start else -task.equilibration_steps
        moving = degrees_of_freedom(atoms.positions / NM_TO_A, stop_rotation=self.free)
        self.dof = moving if task.ensemble == "nve" else 3 * len(atoms)
        self.hottest_K = runaway_temperature_K(task.temperature_K, max(self.dof, 1))

    @property
    def friction_per_ps(self) -> float:
        """Of the coming step."""
        if self.steps_done < 0:
            return EQUILIBRATION_FRICTION_PER_PS
        return 0.0 if self.task.ensemble == "nve" else self.task.friction_per_ps

    def begin(self) -> None:
        """Take the state, or draw velocities."""
        if self.start is not None:
            self.atoms.positions[:] = self.start.positions_A
            self.velocities = np.array(self.start.velocities_A_per_fs, dtype=np.float64)
        else:
            task, nm = self.task, self.atoms.positions / NM_TO_A
            drawn = maxwell_boltzmann(self.masses, nm, task.temperature_K, task.seed, stop_rotation=self.free)
            self.velocities = drawn * NM_PER_PS
        self.forces = self.atoms.get_forces()

    def settle(self) -> None:
        """What follows the equilibration: without a thermostat, the temperature set once."""
        if self.start is None and self.task.ensemble == "nve":
            self.velocities = at_rest_at(self.atoms, self.velocities, self.task.temperature_K)

    def step(self) -> None:
        """One timestep, one evaluation."""
        dt = self.task.timestep_fs
        kick = 0.5 * dt * ACCELERATION / self.masses[:, None]
        velocities = self.velocities + kick * self.forces
        positions = self.atoms.positions + 0.5 * dt * velocities
        if friction_per_ps := self.friction_per_ps:
            keep = np.exp(-friction_per_ps * dt / 1000.0)
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
        self.steps_done += 1

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


class _Saved:
    """A run that is not finished, in a file."""

    def __init__(self, path: Path | None, mover: _Mover, recorder: _Recorder) -> None:
        self.path, self.mover, self.recorder = path, mover, recorder
        self.last = time.monotonic()

    def read(self) -> bool:
        """Put mover and recorder where the file left them; whether there was one."""
        if self.path is None or not self.path.is_file():
            return False
        mover, atoms = self.mover, self.mover.atoms
        found = read_arrays(self.path)
        try:
            atoms.set_cell(found["cell"])
            atoms.positions[:] = found["positions"]
            mover.velocities, mover.forces = found["velocities"], found["forces"]
            mover.steps_done = int(found["steps_done"])
            mover.rng.bit_generator.state = json.loads(str(found["random_state"]))
            columns = (found[f"column_{k}"] for k in range(COLUMNS))
            self.recorder.rows = list(zip(*columns, strict=True))
        except (ValueError, KeyError) as error:
            raise unreadable(self.path, error) from error
        return True

    def write_now_and_then(self) -> None:
        """Write the file where the last time is a minute ago."""
        if self.path is None or time.monotonic() - self.last < SAVE_EVERY_S:
            return
        mover, rows = self.mover, self.recorder.rows
        columns = [np.array(part) for part in zip(*rows, strict=True)] or [np.zeros(0)] * COLUMNS
        content: dict[str, Any] = {
            "cell": mover.atoms.cell.array,
            "positions": mover.atoms.positions,
            "velocities": mover.velocities,
            "forces": mover.forces,
            "steps_done": np.array(mover.steps_done),
            "random_state": np.array(json.dumps(mover.rng.bit_generator.state)),
            **{f"column_{k}": column for k, column in enumerate(columns)},
        }
        with atomic_write(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **content)
        self.last = time.monotonic()


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
