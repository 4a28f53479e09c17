"""What a structure looks like as a row of numbers, without any training: to tell copies from news.

For every atom, moments of rank 0, 1 and 2 of its neighbours (Gaussians in the distance times fixed random
codes of the elements), contracted to invariants; for the structure, their means, weighted with the atom's
own code, and their spread. It is the students' own first step (:mod:`compactff_md.students.moments`) with
nothing learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from compactff_md.neighbours import pair_list
from compactff_md.structure import MAX_ATOMIC_NUMBER, Structure

CUTOFF_A = 5.0
CENTRES_A = np.linspace(0.8, 4.4, 7)
WIDTH_A = 0.4
CODES = np.random.default_rng(20).standard_normal((MAX_ATOMIC_NUMBER + 1, 3))
OWN_CODES = np.random.default_rng(21).standard_normal((MAX_ATOMIC_NUMBER + 1, 3))


def atom_invariants(structure: Structure) -> np.ndarray:
    """Invariants of every atom's neighbours, shape (N, 63): unchanged by rotations and permutations."""
    i, j, distance, shifts = pair_list(structure, CUTOFF_A)
    vectors = structure.positions_A[j] - structure.positions_A[i] + shifts @ structure.cell_A
    unit = vectors / np.maximum(distance, 1e-9)[:, None]
    envelope = np.clip(1.0 - (distance / CUTOFF_A) ** 2, 0.0, None) ** 2
    radial = np.exp(-0.5 * ((distance[:, None] - CENTRES_A) / WIDTH_A) ** 2) * envelope[:, None]
    edge = (radial[:, :, None] * CODES[structure.numbers[j]][:, None, :]).reshape(len(i), -1)  # (P, 21)
    outer = unit[:, :, None] * unit[:, None, :] - np.eye(3) / 3.0
    angular = np.concatenate([np.ones((len(i), 1)), unit, outer.reshape(-1, 9)], axis=1)  # (P, 13)
    moments = np.zeros((len(structure), 13, edge.shape[1]))
    np.add.at(moments, i, angular[:, :, None] * edge[:, None, :])
    norms = [np.sqrt((moments[:, a:b] ** 2).sum(1)) for a, b in ((1, 4), (4, 13))]
    return np.concatenate([moments[:, 0], *norms], axis=1)


def describe_structure(atoms: ase.Atoms) -> np.ndarray:
    """Descriptor of a structure, shape (255,); equal for equal structures, whatever their orientation."""
    structure = Structure.from_ase(atoms)
    invariants = atom_invariants(structure)
    own = OWN_CODES[structure.numbers]  # (N, 3)
    weighted = own.T @ invariants / len(structure)  # (3, 63)
    return np.concatenate([weighted.ravel(), invariants.std(0), own.mean(0)])


def describe_all(structures: Sequence[ase.Atoms]) -> np.ndarray:
    """Descriptors of many, shape (F, 255), each column with mean zero and variance one over them."""
    rows = np.stack([describe_structure(atoms) for atoms in structures])
    spread = rows.std(0)
    return (rows - rows.mean(0)) / np.where(spread > 1e-9, spread, 1.0)
