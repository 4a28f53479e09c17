"""Structures as the package sees them: positions, atomic numbers, cell and periodicity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.data import chemical_symbols

from compactff_md.errors import CompactFFError

MAX_ATOMIC_NUMBER = 86


@dataclass(frozen=True)
class Structure:
    """Atoms in space.

    Parameters
    ----------
    positions_A
        Shape (N, 3), float64, may lie outside the cell.
    numbers
        Atomic numbers, shape (N,), from 1 to 86.
    cell_A
        Lattice vectors as rows, shape (3, 3); zeros along directions that are not periodic are allowed.
    pbc
        Shape (3,), True where the direction is periodic.

    Raises
    ------
    CompactFFError
        On empty structures, wrong shapes, non-finite positions, elements beyond radon, a periodic cell
        that is singular or left-handed.
    """

    positions_A: np.ndarray
    numbers: np.ndarray
    cell_A: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "positions_A", np.asarray(self.positions_A, dtype=np.float64))
        set_(self, "numbers", np.asarray(self.numbers, dtype=np.int64))
        set_(self, "cell_A", np.asarray(self.cell_A, dtype=np.float64))
        set_(self, "pbc", np.asarray(self.pbc, dtype=bool))
        _check_atoms(self)
        _check_cell(self)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume_A3(self) -> float:
        """Volume of the cell; zero where a vector of it is zero."""
        return float(abs(np.linalg.det(self.cell_A)))

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols, one an atom."""
        return [chemical_symbols[z] for z in self.numbers]

    @classmethod
    def from_ase(cls, atoms: ase.Atoms) -> Structure:
        """Take positions, numbers, cell and pbc from an ``ase.Atoms``."""
        return cls(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)

    def to_ase(self) -> ase.Atoms:
        """Return a new ``ase.Atoms`` without calculator, velocities or constraints."""
        return ase.Atoms(numbers=self.numbers, positions=self.positions_A, cell=self.cell_A, pbc=self.pbc)


@dataclass(frozen=True)
class Prediction:
    """What a student or teacher says of one structure.

    ``energy_eV`` is a float; ``energies_eV`` has shape (N,); ``forces_eV_per_A`` shape (N, 3);
    ``virial_eV`` is the strain derivative dE/d(strain), shape (3, 3) and symmetric: the stress is
    virial / volume, with ASE's sign (positive where the solid is stretched).
    """

    energy_eV: float
    energies_eV: np.ndarray
    forces_eV_per_A: np.ndarray
    virial_eV: np.ndarray


def _check_atoms(structure: Structure) -> None:
    n = len(structure.numbers)
    if n == 0:
        raise CompactFFError("the structure has no atoms; expected at least one")
    if structure.numbers.ndim != 1 or structure.positions_A.shape != (n, 3):
        raise CompactFFError(
            f"positions have shape {structure.positions_A.shape} for {n} atomic numbers; expected ({n}, 3)"
        )
    bad = np.flatnonzero(~np.isfinite(structure.positions_A).all(axis=1))
    if len(bad):
        raise CompactFFError(
            f"positions of atoms {bad[:10].tolist()} are NaN or infinite; expected numbers in A"
        )
    odd = np.flatnonzero((structure.numbers < 1) | (structure.numbers > MAX_ATOMIC_NUMBER))
    if len(odd):
        raise CompactFFError(
            f"atoms {odd[:10].tolist()} have atomic numbers {structure.numbers[odd][:10].tolist()}; "
            f"allowed are 1 to {MAX_ATOMIC_NUMBER} (H to Rn)"
        )


def _check_cell(structure: Structure) -> None:
    if structure.cell_A.shape != (3, 3) or structure.pbc.shape != (3,):
        raise CompactFFError(
            f"cell has shape {structure.cell_A.shape} and pbc {structure.pbc.shape}; expected (3, 3) and (3,)"
        )
    if not structure.pbc.any():
        return
    if not np.isfinite(structure.cell_A).all():
        raise CompactFFError(f"the cell has non-finite entries: {structure.cell_A.tolist()}")
    periodic = structure.cell_A[structure.pbc]
    if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise CompactFFError(
            f"the cell is singular: its periodic vectors {periodic.tolist()} are zero or linearly dependent; "
            "give independent lattice vectors in A, or set pbc to False along the directions without one"
        )
    if structure.pbc.all() and np.linalg.det(structure.cell_A) <= 0:
        raise CompactFFError(
            "the cell is left-handed (its determinant is negative); swap two lattice vectors, "
            "and with them the fractional coordinates"
        )


def check_unconstrained(atoms: ase.Atoms) -> None:
    """Refuse constraints, for engines that do not hold them.

    Raises
    ------
    CompactFFError
        Where the atoms have any; the message names their kinds.
    """
    if atoms.constraints:
        kinds = ", ".join(sorted({type(constraint).__name__ for constraint in atoms.constraints}))
        raise CompactFFError(
            f"the atoms have constraints ({kinds}), which are not held here: every atom would move; take "
            "them off with atoms.set_constraint(), or out of the file (selective dynamics of a POSCAR)"
        )


def read_structures(path: str | Path, index: str = ":") -> list[ase.Atoms]:
    """Read every structure of a file in any format that ASE knows.

    Raises
    ------
    CompactFFError
        If the file is missing, unreadable or holds no atoms; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise CompactFFError(f"no such structure file: {path}")
    try:
        frames = ase.io.read(path, index=index)
    except Exception as error:  # ASE's readers raise whatever their format's parser happens to hit
        raise CompactFFError(
            f"{path} cannot be read as a structure ({type(error).__name__}: {error}); "
            "expected a format that ASE reads, such as extxyz, xyz, pdb, cif or POSCAR"
        ) from error
    frames = frames if isinstance(frames, list) else [frames]
    if not frames or any(len(frame) == 0 for frame in frames):
        raise CompactFFError(f"{path} holds no atoms; expected at least one structure")
    return frames
