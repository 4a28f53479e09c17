"""A run of molecular dynamics in memory, and as one npz file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase import units

from compactff_md.files import atomic_write, read_arrays
from compactff_md.structure import Structure

FRAMES_TO_LOOK_AT = 200


@dataclass(frozen=True)
class Run:
    """What a run recorded, F frames of N atoms.

    Attributes
    ----------
    time_ps, potential_eV, kinetic_eV
        Shape (F,).
    positions_A, velocities_A_per_fs
        Shape (F, N, 3); positions are not wrapped into the cell.
    numbers
        Shape (N,).
    cell_A
        Shape (F, 3, 3), zeros for free atoms.
    pbc
        Shape (3,).
    masses_Da
        Shape (N,).
    forces_eV_per_A
        Of the potential that moved the atoms, shape (F, N, 3); None where they were not kept.
    timestep_fs, temperature_K
        Of integrator and thermostat (NVE: of the initial velocities).
    failure
        Why the run ended early; empty where it did not.
    engine
        What ran it.
    dof
        Degrees of freedom of the kinetic energy.
    """

    time_ps: np.ndarray
    potential_eV: np.ndarray
    kinetic_eV: np.ndarray
    positions_A: np.ndarray
    velocities_A_per_fs: np.ndarray
    numbers: np.ndarray
    cell_A: np.ndarray
    pbc: np.ndarray
    masses_Da: np.ndarray
    timestep_fs: float
    temperature_K: float
    dof: int
    engine: str
    failure: str = ""
    forces_eV_per_A: np.ndarray | None = field(default=None)

    def __len__(self) -> int:
        return len(self.time_ps)

    @property
    def total_eV(self) -> np.ndarray:
        """Potential and kinetic energy, shape (F,)."""
        return self.potential_eV + self.kinetic_eV

    @property
    def kinetic_temperature_K(self) -> np.ndarray:
        """Instantaneous temperature, shape (F,)."""
        return 2.0 * self.kinetic_eV / (max(self.dof, 1) * units.kB)

    def structure(self, frame: int) -> Structure:
        """One frame."""
        return Structure(self.positions_A[frame], self.numbers, self.cell_A[frame], self.pbc)

    def parts(self, length_ps: float) -> list[Run]:
        """The run in parts of this length, the last of which may be shorter; times stay as they are."""
        number = np.floor(np.maximum(self.time_ps - 1e-9, 0.0) / length_ps).astype(int)
        changing = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("numbers", "pbc", "masses_Da") and isinstance(getattr(self, f.name), np.ndarray)
        }
        return [
            replace(self, **{name: values[number == k] for name, values in changing.items()})
            for k in np.unique(number)
        ]

    def structures(self, count: int) -> list[Structure]:
        """At most ``count`` frames, evenly spaced and with the last."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return [self.structure(int(frame)) for frame in chosen]


def save_run(path: Path, run: Run) -> None:
    """Write a run as npz, and up to 200 of its frames as extxyz beside it, for any viewer."""
    arrays = {f.name: getattr(run, f.name) for f in fields(run) if getattr(run, f.name) is not None}
    frames = []
    for k in np.unique(np.linspace(0, len(run) - 1, min(FRAMES_TO_LOOK_AT, len(run))).astype(int)):
        atoms = ase.Atoms(run.numbers, run.positions_A[k], cell=run.cell_A[k], pbc=run.pbc)
        atoms.info |= {"time_ps": float(run.time_ps[k]), "potential_eV": float(run.potential_eV[k])}
        frames.append(atoms)
    with atomic_write(path.with_suffix(".xyz")) as temporary:
        ase.io.write(temporary, frames, format="extxyz")
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load_run(path: Path) -> Run:
    """Read what :func:`save_run` wrote.

    Raises
    ------
    CompactFFError
        If the file is damaged.
    """
    found: dict[str, Any] = read_arrays(path)
    plain = {name: value.item() if value.ndim == 0 else value for name, value in found.items()}
    return Run(**plain)
