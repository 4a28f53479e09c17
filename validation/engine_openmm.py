"""Dynamics of a student in OpenMM, through TorchForce or PythonForce."""

from __future__ import annotations

from typing import Any

import numpy as np

from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_import import openmmtorch, unit, why_missing
from compactff_md.engines.openmm_simulation import Simulation
from compactff_md.engines.openmm_sound import MEMORY_ADVICE, Unsound
from compactff_md.engines.openmm_system import openmm_frame, prepare
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, KJ_PER_MOL_TO_EV, NM_TO_A
from compactff_md.validation.engine_ase import NM_PER_PS
from compactff_md.validation.run import Run
from compactff_md.validation.task import State, Task, Tick


class OpenMMEngine:
    """Runs a student in OpenMM; results are in OpenMM's frame, in which boxes are lower triangular.

    Velocities of frames are those that the context holds: in NVE half a step before the positions, which a
    spectrum does not see; kinetic energies are those of whole steps.

    Parameters
    ----------
    student
        A ``Student`` or its network.
    dtype
        ``float32`` or ``float64`` of the network.
    force
        ``torchforce`` or ``python``; None takes the first where its plugin is here.
    platform
        Of OpenMM; None takes that of :class:`MDSettings`.

    Raises
    ------
    CompactFFError
        When running, where OpenMM is missing, for slabs and wires, and where the memory does not suffice.
    """

    def __init__(
        self, student: Any, dtype: str = "float32", force: str | None = None, platform: str | None = None
    ) -> None:
        self.student, self.dtype, self.platform = student, dtype, platform
        self.force = force or ("python" if why_missing(openmmtorch) else "torchforce")
        self.name = f"openmm-{self.force}"

    def single_point(self, structure: Structure) -> tuple[float, np.ndarray]:
        """Energy in eV and forces in eV/A in the frame of ``structure``, shape (N, 3)."""
        simulation = self._simulation(structure, Task("nve", 300.0, 0.5, 1, 1, 0))
        state = simulation.context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL_TO_EV
        forces = np.array(state.getForces(asNumpy=True)._value) / EV_PER_A_TO_KJ_PER_MOL_PER_NM
        return float(energy), forces @ _turn(structure).T

    def run(
        self, structure: Structure, task: Task, start: State | None = None, tick: Tick | None = None
    ) -> Run:
        """Run a task; see :class:`compactff_md.validation.task.Engine`."""
        simulation = self._simulation(structure, task)
        frames: list[tuple[Any, ...]] = []
        failure = ""
        try:
            self._begin(simulation, start)
            frames.append(_frame(simulation))
            for step in range(task.every, task.steps + 1, task.every):
                simulation.advance(task.every)
                frames.append(_frame(simulation))
                if tick is not None:
                    tick(step)
        except Unsound as error:
            if error.advice == MEMORY_ADVICE:  # which says nothing of the student
                raise CompactFFError(f"{error}; {error.advice}") from error
            failure = f"at step {max(0, len(frames) - 1) * task.every}: {error}"
        return _run(simulation, task, frames, failure, self.name)

    def _simulation(self, structure: Structure, task: Task) -> Simulation:
        has_thermostat = task.ensemble != "nve" or task.equilibration_steps > 0
        settings = MDSettings(
            ensemble=task.ensemble,
            temperature_K=task.temperature_K,
            timestep_fs=task.timestep_fs,
            steps=task.steps,
            seed=task.seed,
            equilibration_ps=task.equilibration_steps * task.timestep_fs / 1000.0,
            **({"friction_per_ps": task.friction_per_ps} if has_thermostat else {}),
            pressure_bar=task.pressure_bar,
            platform=self.platform,
        )
        return Simulation(prepare(structure, self.student, force=self.force, dtype=self.dtype), settings)

    @staticmethod
    def _begin(simulation: Simulation, start: State | None) -> None:
        if start is None:
            simulation.begin(lambda: False)
        else:
            simulation.set_coordinates(start.positions_A / NM_TO_A, start.velocities_A_per_fs / NM_PER_PS)


def _turn(structure: Structure) -> np.ndarray:
    """The rotation from a structure's frame to OpenMM's, shape (3, 3): rows of positions times it."""
    if not structure.pbc.all():
        return np.eye(3)
    axes = Structure(np.eye(3), np.ones(3, dtype=int), structure.cell_A, structure.pbc)
    return openmm_frame(axes).positions_A


def _frame(simulation: Simulation) -> tuple[Any, ...]:
    """Energies in eV, then positions in A, velocities in A/fs and the cell in A."""
    state = simulation.state()
    row = simulation.row(state)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    box = simulation.box_A() if simulation.periodic else None
    if not np.isfinite(positions).all():
        raise Unsound("positions are not finite")
    cell = np.zeros((3, 3)) if box is None else np.array(box)
    return row["potential_eV"], row["kinetic_eV"], np.array(positions), velocities * NM_PER_PS, cell


def _run(simulation: Simulation, task: Task, frames: list[Any], failure: str, engine: str) -> Run:
    structure = simulation.prepared.structure
    if not frames:
        nothing = np.zeros((len(structure), 3))
        frames = [(np.nan, np.nan, structure.positions_A, nothing, structure.cell_A)]
    potential, kinetic, positions, velocities, cells = (np.array(p) for p in zip(*frames, strict=True))
    return Run(
        time_ps=np.arange(len(frames)) * task.every * task.timestep_fs / 1000.0,
        potential_eV=potential,
        kinetic_eV=kinetic,
        positions_A=positions,
        velocities_A_per_fs=velocities,
        numbers=structure.numbers,
        cell_A=cells,
        pbc=structure.pbc,
        masses_Da=simulation.masses_Da,
        timestep_fs=task.timestep_fs,
        temperature_K=task.temperature_K,
        dof=simulation.dof,
        engine=engine,
        failure=failure,
    )
