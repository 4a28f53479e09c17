"""What an engine is asked to run, and what every engine of the suite can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from compactff_md.structure import Structure
from compactff_md.validation.run import Run

Tick = Callable[[float], None]


@dataclass(frozen=True)
class State:
    """Positions in A and velocities in A/fs of one moment, shape (N, 3) each."""

    positions_A: np.ndarray
    velocities_A_per_fs: np.ndarray


@dataclass(frozen=True)
class Task:
    """One run of molecular dynamics.

    Attributes
    ----------
    ensemble
        ``nve`` (velocity Verlet), ``nvt`` (Langevin, BAOAB or its equivalent in the engine, whose
        configurations hardly depend on the timestep, so that different engines can be compared), or
        ``npt`` (the same, and an isotropic barostat).
    temperature_K
        Of thermostat and initial velocities.
    every
        Steps between two frames.
    equilibration_steps
        With the thermostat (and barostat), before the first frame; 0 where a state is given.
    pressure_bar
        Of the barostat; None without.
    """

    ensemble: Literal["nve", "nvt", "npt"]
    temperature_K: float
    timestep_fs: float
    steps: int
    every: int
    seed: int
    equilibration_steps: int = 0
    friction_per_ps: float = 5.0
    pressure_bar: float | None = None


class Engine(Protocol):
    """Moves the atoms by one potential."""

    name: str

    def run(
        self, structure: Structure, task: Task, start: State | None = None, tick: Tick | None = None
    ) -> Run:
        """Run a task from a structure, or from a state of its atoms; ``tick`` is told the steps done."""

    def single_point(self, structure: Structure) -> tuple[float, np.ndarray]:
        """Energy in eV and forces in eV/A, shape (N, 3)."""


def last_state(run: Run) -> State:
    """The end of a run."""
    return State(np.array(run.positions_A[-1]), np.array(run.velocities_A_per_fs[-1]))
