"""Labelled structures, as the training sees them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from compactff_md.structure import Structure
from compactff_md.training.keys import LabelKeys

# What energies of atoms may miss of the energy, for each atom.
PARTS_TOLERANCE_EV = 1e-4


@dataclass(frozen=True)
class Frame:
    """One structure with its labels.

    ``forces_eV_per_A`` has shape (N, 3); ``stress_eV_per_A3`` shape (3, 3), or is None;
    ``atom_energies_eV``, the teacher's energies of atoms, shape (N,), or is None; ``name`` says in error
    messages where the frame came from; ``temperature_K`` is that of the MD that made it.
    """

    structure: Structure
    energy_eV: float
    forces_eV_per_A: np.ndarray
    stress_eV_per_A3: np.ndarray | None = None
    atom_energies_eV: np.ndarray | None = None
    name: str = "frame"
    temperature_K: float | None = None

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def formula(self) -> tuple[tuple[int, int], ...]:
        """Atomic numbers and how often each occurs, sorted; equal for equal compositions."""
        return tuple(sorted(Counter(self.structure.numbers.tolist()).items()))


@dataclass(frozen=True)
class LabelledSet:
    """Frames, and the energies of isolated atoms by symbol in eV where the source gave them.

    ``by_teacher`` is True where an ASE calculator of this run made the labels, whose energies are in eV.
    ``keys`` are the names under which the labels were found, None where they are not one file's.
    ``isolated_frames`` are all isolated atoms of the source: symbol, energy in eV, and where it is from.
    """

    frames: tuple[Frame, ...]
    isolated_eV: dict[str, float] = field(default_factory=dict)
    by_teacher: bool = False
    keys: LabelKeys | None = None
    isolated_frames: tuple[tuple[str, float, str], ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur, by atomic number."""
        numbers = sorted({int(z) for frame in self.frames for z in np.unique(frame.structure.numbers)})
        return [chemical_symbols[z] for z in numbers]

    @property
    def has_atom_energies(self) -> bool:
        """Whether the teacher gave energies of atoms for every frame."""
        return bool(self.frames) and all(frame.atom_energies_eV is not None for frame in self.frames)

    @property
    def digest(self) -> str:
        """Checksum of structures and labels: two sets with the same one train the same student."""
        sha = hashlib.sha256(repr(sorted(self.isolated_eV.items())).encode())
        for frame in self.frames:
            structure = frame.structure
            stress = frame.stress_eV_per_A3
            for part in (structure.numbers, structure.positions_A, structure.cell_A, structure.pbc):
                sha.update(np.ascontiguousarray(part).tobytes())
            sha.update(np.float64(frame.energy_eV).tobytes() + frame.forces_eV_per_A.tobytes())
            sha.update(b"none" if stress is None else np.ascontiguousarray(stress).tobytes())
            sha.update(b"" if frame.atom_energies_eV is None else frame.atom_energies_eV.tobytes())
        return sha.hexdigest()


def composition(frames: tuple[Frame, ...] | list[Frame], elements: list[str]) -> np.ndarray:
    """How many atoms of each element each frame has, shape (F, S); other elements are not counted."""
    numbers = np.array([atomic_numbers[symbol] for symbol in elements])
    return np.array([(frame.structure.numbers[:, None] == numbers).sum(0) for frame in frames], dtype=float)


def mean_atom_energies(frames: tuple[Frame, ...] | list[Frame], elements: list[str]) -> np.ndarray:
    """Mean of the teacher's energies of each element's atoms, shape (S,), in eV; or of all atoms."""
    numbers = np.concatenate([frame.structure.numbers for frame in frames])
    energies = np.concatenate([frame.atom_energies_eV for frame in frames])  # type: ignore[misc]
    chosen = [numbers == atomic_numbers[symbol] for symbol in elements]
    return np.array([energies[these].mean() if these.any() else energies.mean() for these in chosen])


def fit_energy_shifts(frames: tuple[Frame, ...] | list[Frame], elements: list[str]) -> np.ndarray:
    """Energy of each element's atom by least squares on composition, shape (S,), in eV.

    What is left over the mean energy per atom is solved with the smallest norm, so that elements that
    the data cannot tell apart (one molecule, say) share the energy evenly.
    """
    counts = composition(frames, elements)  # (F, S)
    sizes = counts.sum(1)
    per_atom = np.array([frame.energy_eV for frame in frames]) / sizes
    mean = per_atom.mean()
    solution = np.linalg.lstsq(counts / sizes[:, None], per_atom - mean, rcond=1e-6)[0]
    return mean + solution
