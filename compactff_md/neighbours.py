"""Who is near whom, by vesin, as a table padded to the same number of neighbours for every atom.

A student sees a structure as ``vectors[i, k] = r_j - r_i`` for the k-th neighbour j of atom i. Rows with
fewer neighbours than the widest are filled with vectors far beyond any cutoff, where every student's
radial functions and their derivatives are exactly zero, so that no mask is needed downstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from compactff_md.errors import NotFiniteError
from compactff_md.structure import Structure

# Length of the vectors that fill up a row; every cutoff is far below it.
PADDING_A = 1000.0
MOST_SPREAD_A = 1e5


@dataclass(frozen=True)
class NeighbourTable:
    """Neighbours of N atoms, K a row; K is at least 1.

    Attributes
    ----------
    neighbours
        Index of the neighbour, shape (N, K), int64; an atom's own index where the row is padded.
    offsets_A
        What to add to ``r[j] - r[i]``: the Cartesian shift of the periodic image, or the padding;
        shape (N, K, 3), float64.
    """

    neighbours: Tensor
    offsets_A: Tensor

    def vectors(self, positions_A: Tensor) -> Tensor:
        """Vectors from each atom to its neighbours, shape (N, K, 3), in the dtype of ``positions_A``."""
        offsets = self.offsets_A.to(positions_A)  # (N, K, 3)
        return positions_A[self.neighbours] - positions_A.unsqueeze(1) + offsets


def pair_list(structure: Structure, cutoff_A: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every ordered pair within the cutoff, periodic images included.

    Returns
    -------
    i, j
        Indices, shape (P,), sorted by i.
    distance_A
        Shape (P,).
    shifts
        How many lattice vectors to add to atom j, shape (P, 3), int64.

    Raises
    ------
    NotFiniteError
        Where atoms have flown so far apart that no list can be made.
    """
    open_A = structure.positions_A[:, ~structure.pbc]
    if open_A.size and np.ptp(open_A, axis=0).max() > MOST_SPREAD_A:  # vesin would end the process
        spread_A = np.ptp(open_A, axis=0).max()
        raise NotFiniteError(
            f"atoms are {spread_A:.3g} A apart where the structure is not periodic, expected at most "
            f"{MOST_SPREAD_A:g}: the dynamics ran away, or lengths are in another unit"
        )
    search = NeighborList(cutoff=cutoff_A, full_list=True, sorted=True, n_threads=1)
    i, j, distance_A, shifts = search.compute(
        structure.positions_A, structure.cell_A, tuple(bool(p) for p in structure.pbc), "ijdS"
    )
    return i.astype(np.int64), j.astype(np.int64), distance_A, shifts.astype(np.int64)


def neighbour_table(structure: Structure, cutoff_A: float) -> NeighbourTable:
    """Build the padded table of every neighbour within ``cutoff_A`` of each atom."""
    i, j, _, shifts = pair_list(structure, cutoff_A)
    n = len(structure)
    counts = np.bincount(i, minlength=n)
    width = max(1, int(counts.max()))
    column = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbours = np.repeat(np.arange(n)[:, None], width, axis=1)
    offsets = np.zeros((n, width, 3))
    offsets[:, :, 0] = PADDING_A
    neighbours[i, column] = j
    offsets[i, column] = shifts @ structure.cell_A
    return NeighbourTable(torch.from_numpy(neighbours), torch.from_numpy(offsets))


def joined(tables: Sequence[NeighbourTable]) -> NeighbourTable:
    """One table of several structures' atoms behind each other, at least one; none sees another's."""
    width = max(table.neighbours.shape[1] for table in tables)
    neighbours, offsets, first = [], [], 0
    for table in tables:
        count, own_width = table.neighbours.shape
        atoms = torch.arange(first, first + count).unsqueeze(1)
        filling = atoms.expand(count, width - own_width)
        neighbours.append(torch.cat([table.neighbours + first, filling], dim=1))
        far = torch.tensor([PADDING_A, 0.0, 0.0], dtype=torch.float64).expand(count, width - own_width, 3)
        offsets.append(torch.cat([table.offsets_A, far], dim=1))
        first += count
    return NeighbourTable(torch.cat(neighbours), torch.cat(offsets))
