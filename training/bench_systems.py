"""Structures and motions that the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.data import atomic_masses
from ase.units import fs, kB

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure

WATER_SPACING_A = 3.1045  # one molecule a cube of this edge is 1.0 g/cm3


def of_the_repository(path: Path) -> Path:
    """A file that lies in the repository and not in an installation.

    Raises
    ------
    CompactFFError
        If it is not there.
    """
    if not path.is_file():
        raise CompactFFError(
            f"no such file: {path}; it is part of the repository, at whose root benches are run: go there, "
            "or name another (--help)"
        )
    return path


def water_box(repeats: tuple[int, int, int], seed: int = 0) -> Structure:
    """Randomly turned molecules on a cubic grid at 1 g/cm3; (8, 8, 8) is the box of 1,536 atoms."""
    rng = np.random.default_rng(seed)
    single = molecule("H2O")
    cells = np.array(list(np.ndindex(*repeats)))
    positions = [single.positions @ random_rotation(rng).T + WATER_SPACING_A * (cell + 0.5) for cell in cells]
    numbers = np.tile(single.numbers, len(cells))
    return Structure(
        np.concatenate(positions), numbers, np.diag(WATER_SPACING_A * np.array(repeats)), np.ones(3, bool)
    )


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Rotation matrix drawn evenly, shape (3, 3)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def thermal_motion(structure: Structure, frames: int, timestep_fs: float = 0.5, seed: int = 0) -> np.ndarray:
    """Positions along a free flight at 300 K, shape (frames, N, 3), in A.

    A neighbour list is then built about as often as in dynamics, where collisions make it a little rarer.
    """
    rng = np.random.default_rng(seed)
    masses = atomic_masses[structure.numbers][:, None]
    velocities = rng.standard_normal((len(structure), 3)) * np.sqrt(kB * 300.0 / masses)
    flight = np.arange(frames)[:, None, None] * timestep_fs * fs * velocities
    # To and fro, so that a long flight stays near the structure.
    return structure.positions_A + np.concatenate(
        [flight[: frames // 2], flight[: frames - frames // 2][::-1]]
    )
