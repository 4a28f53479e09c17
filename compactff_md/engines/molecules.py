"""Which atoms are bonded, by their covalent radii, and molecules made whole across periodic boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from compactff_md.neighbours import pair_list
from compactff_md.structure import Structure

# Atoms are bonded where they are closer than this factor times the sum of their covalent radii
# (Cordero et al. 2008, as tabulated in ASE); hydrogen bonds are far beyond it.
BOND_FACTOR = 1.25


@dataclass(frozen=True)
class Molecules:
    """Groups of bonded atoms.

    Attributes
    ----------
    labels
        Number of each atom's molecule, shape (N,).
    images
        Lattice vectors to add to each atom so that its molecule is whole, shape (N, 3), integers; zeros
        in molecules that are endless.
    endless
        True where the molecule is bonded to its own periodic image (crystals, polymers), shape (N,).
    bonds
        Pairs i < j of bonded atoms, shape (B, 2).
    """

    labels: np.ndarray
    images: np.ndarray
    endless: np.ndarray
    bonds: np.ndarray

    def whole_positions_A(self, structure: Structure) -> np.ndarray:
        """Positions with every finite molecule in one piece, shape (N, 3)."""
        return structure.positions_A + self.images @ structure.cell_A


def find_molecules(structure: Structure) -> Molecules:
    """Group the atoms of a structure by bonds, which are guessed from distances."""
    i, j, shifts = _bonded(structure)
    n = len(structure)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    _, labels = connected_components(graph, directed=False)
    images = _images(graph, labels, i, j, shifts)
    broken = (images[j] != images[i] + shifts).any(axis=1)
    endless = np.isin(labels, labels[i[broken]])
    images[endless] = 0
    pairs = np.unique(np.stack([i, j], axis=1)[i < j], axis=0)
    return Molecules(labels, images, endless, pairs)


def _bonded(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    radii = covalent_radii[structure.numbers]
    i, j, distance_A, shifts = pair_list(structure, 2 * BOND_FACTOR * float(radii.max()))
    near = distance_A < BOND_FACTOR * (radii[i] + radii[j])
    return i[near], j[near], shifts[near]


def _images(
    graph: coo_array, labels: np.ndarray, i: np.ndarray, j: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Walk each molecule from its first atom and add up the shifts of the bonds on the way."""
    shift_of = {(a, b): shift for a, b, shift in zip(i.tolist(), j.tolist(), shifts, strict=True)}
    images = np.zeros((len(labels), 3), dtype=np.int64)
    _, roots = np.unique(labels, return_index=True)
    for root in roots.tolist():
        order, previous = breadth_first_order(graph, root, directed=False)
        for atom in order[1:].tolist():
            before = int(previous[atom])
            images[atom] = images[before] + shift_of[before, atom]
    return images
