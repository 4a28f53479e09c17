"""A neighbour list with a skin, inside the exported module: most steps reuse the table of an earlier one.

The table holds every pair within cutoff + skin of the reference positions. With ``S`` the linear map
that takes the reference's lattice vectors to the current ones, and ``u_i`` how far atom i is from where
``S`` takes its reference position, a pair that is not in the table is still farther apart than

    sigma_min(S) (cutoff + skin) - u_i - u_j  >=  (1 - |S - 1|) (cutoff + skin) - u_i - u_j ,

so the table is complete within the cutoff as long as the two largest displacements and
``|S - 1| (cutoff + skin)``, with the Frobenius norm, sum up to no more than the skin. Without a change of
the cell that is the usual "half the skin" rule, made a little wider where only one atom is fast. A
barostat's trial move changes the cell by a fraction of a percent and passes.

Nothing is ever wrapped between two builds: an atom may leave the cell, and whole turns are in the shifts.
Correctness does not hang on what was called before: another structure is a large displacement.
"""

# No `from __future__ import annotations`: TorchScript cannot resolve the fields of a NamedTuple from strings.
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compactff_md.export.pairs import completed_cell, find_pairs, starts
from compactff_md.neighbours import PADDING_A

# Free molecules up to this size list all other atoms, once: nothing is looked for and nothing can go stale.
SMALL_MOLECULE = 48
DEFAULT_SKIN_A = 0.4


class VerletTable(NamedTuple):
    """A table of neighbours and what it was made from; whole numbers are kept in float64.

    Attributes
    ----------
    neighbours
        Shape (N, K), int64, the atom itself where the row is padded; K is that of the longest row.
    shifts
        Whole lattice vectors to add to each neighbour, and 1 where the row is padded; shape (N, K, 4).
    offsets_A
        The same in Cartesian coordinates, at the cell ``offsets_cell``; shape (N, K, 3).
    reference_A, cell, inverse
        Positions (N, 3), lattice vectors (3, 3) and inverse of the completed cell at the build.
    periodicity
        1, 2 and 4, added up over the directions that are periodic; -1 before the first build.
    """

    neighbours: Tensor
    shifts: Tensor
    offsets_A: Tensor
    offsets_cell: Tensor
    reference_A: Tensor
    cell: Tensor
    inverse: Tensor
    periodicity: int


def empty_table() -> VerletTable:
    """Return the table of no atoms, which fits no structure."""
    index = torch.zeros(0, 1, dtype=torch.int64)
    vector = torch.zeros(0, 3, dtype=torch.float64)
    cell = torch.zeros(3, 3, dtype=torch.float64)
    return VerletTable(index, vector, vector, cell, vector, cell, cell, -1)


class VerletList(nn.Module):
    """Neighbours within a cutoff, kept from call to call; scriptable, for CPU and GPU.

    One call waits for the device once (to learn whether the table still holds), and a few times more
    when it builds; for a free molecule of up to 48 atoms it never does after the first call.

    An instance is for one caller at a time. Engines that run several simulations copy the module for each
    (OpenMM's ``TorchForce`` does); threads need a copy each.

    Parameters
    ----------
    cutoff_A
        Every pair up to this distance is in the table, and some beyond.
    skin_A
        How much farther the table reaches: wider means fewer builds and more pairs.

    Attributes
    ----------
    num_builds
        How many tables were made so far.
    """

    table: VerletTable
    num_builds: int

    def __init__(self, cutoff_A: float, skin_A: float = DEFAULT_SKIN_A) -> None:
        super().__init__()
        self.cutoff_A = float(cutoff_A)
        self.skin_A = float(skin_A)
        self.small = SMALL_MOLECULE
        self.padding_A = PADDING_A
        self.table = empty_table()
        self.num_builds = 0

    def forward(self, positions: Tensor, cell: Tensor, pbc: list[bool]) -> tuple[Tensor, Tensor]:
        """Vectors to the neighbours of each atom.

        Parameters
        ----------
        positions
            In A, shape (N, 3), float64, may lie outside the cell.
        cell
            Lattice vectors as rows, shape (3, 3), float64; rows of directions that are not periodic do
            not matter.
        pbc
            Whether each of the three directions is periodic.

        Returns
        -------
        vectors
            ``r_j - r_i`` in A, shape (N, K, 3), float64; padding is 1000 A long.
        neighbours
            Index j, shape (N, K), int64.

        Raises
        ------
        RuntimeError
            On non-finite positions and impossible cells, where a table has to be built.
        """
        table = self.current(positions, cell, pbc)
        others = positions.index_select(0, table.neighbours.flatten()).view(table.neighbours.shape + (3,))
        vectors = others - positions.unsqueeze(1)
        if table.offsets_A.numel() > 0:
            vectors = vectors + table.offsets_A
        return vectors, table.neighbours

    def current(self, positions: Tensor, cell: Tensor, pbc: list[bool]) -> VerletTable:
        """Return a table that holds at these positions: the last one, or a new one."""
        table = self.table
        periodicity = int(pbc[0]) + 2 * int(pbc[1]) + 4 * int(pbc[2])
        number = positions.shape[0]
        fits = (
            table.periodicity == periodicity
            and table.neighbours.shape[0] == number
            and table.neighbours.device == positions.device
        )
        if periodicity == 0 and 1 < number <= self.small:
            if not fits:
                table = self.everyone(positions)
        elif not fits:
            table = self.build(positions, cell, pbc, periodicity)
        else:
            table = self.refresh(table, positions, cell, pbc)
        self.table = table
        return table

    def refresh(self, table: VerletTable, positions: Tensor, cell: Tensor, pbc: list[bool]) -> VerletTable:
        """Return the table as it is, with offsets for a cell that has changed a little, or a new one."""
        lacking, changed = self.drift(table, positions, cell)
        if not lacking <= 0.0:  # NaN too
            return self.build(positions, cell, pbc, table.periodicity)
        if changed > 0.0:
            return VerletTable(
                table.neighbours,
                table.shifts,
                self.cartesian(table.shifts, cell),
                cell.clone(),
                table.reference_A,
                table.cell,
                table.inverse,
                table.periodicity,
            )
        return table

    def drift(self, table: VerletTable, positions: Tensor, cell: Tensor) -> tuple[float, float]:
        """Return by how many A the skin falls short, and how much the cell of the offsets has changed."""
        moved = positions - table.reference_A  # (N, 3)
        changed = torch.zeros((), dtype=positions.dtype, device=positions.device)
        strain_norm = changed
        if table.periodicity > 0:
            strain = table.inverse @ (cell - table.cell)  # (3, 3)
            moved = moved - table.reference_A @ strain
            strain_norm = torch.linalg.matrix_norm(strain)
            changed = (cell - table.offsets_cell).abs().max()
        distance = torch.linalg.vector_norm(moved, dim=1)
        largest = torch.topk(distance, min(2, distance.shape[0]))[0].sum()
        lacking = largest + strain_norm * (self.cutoff_A + self.skin_A) - self.skin_A
        both: list[float] = torch.stack([lacking, changed]).tolist()  # the one wait for the device
        return both[0], both[1]

    def build(self, positions: Tensor, cell: Tensor, pbc: list[bool], periodicity: int) -> VerletTable:
        """Make a new table of every pair within cutoff + skin."""
        i, j, moves = find_pairs(positions, cell, pbc, self.cutoff_A + self.skin_A)
        number, device = positions.shape[0], positions.device
        counts = torch.bincount(i, minlength=number)
        width = max(1, int(counts.max()))
        place = i * width + torch.arange(i.shape[0], device=device) - starts(counts).index_select(0, i)
        neighbours = torch.arange(number, device=device).repeat_interleave(width)
        neighbours[place] = j
        shifts = torch.zeros(number * width, 4, dtype=positions.dtype, device=device)
        shifts[:, 3] = 1.0
        shifts[place] = torch.nn.functional.pad(moves, [0, 1])
        shifts = shifts.view(number, width, 4)
        # Zero columns for directions that are not periodic: what their rows of the cell hold is no strain.
        periodic = torch.tensor(pbc, dtype=cell.dtype, device=device)
        inverse = torch.linalg.inv(completed_cell(cell, pbc)) * periodic
        self.num_builds += 1
        # Clones: a caller may move its atoms in place, and OpenMM lends its own memory.
        return VerletTable(
            neighbours.view(number, width),
            shifts,
            self.cartesian(shifts, cell),
            cell.clone(),
            positions.clone(),
            cell.clone(),
            inverse,
            periodicity,
        )

    def everyone(self, positions: Tensor) -> VerletTable:
        """Make the table of a small free molecule: all other atoms, without offsets."""
        number, device = positions.shape[0], positions.device
        places = torch.arange(number * number, device=device)
        others = places[places % (number + 1) != 0]  # off the diagonal
        neighbours = (others % number).view(number, number - 1)
        none = torch.zeros(0, 3, dtype=positions.dtype, device=device)
        self.num_builds += 1
        return VerletTable(neighbours, none, none, none, none, none, none, 0)

    def cartesian(self, shifts: Tensor, cell: Tensor) -> Tensor:
        """Turn whole lattice vectors and the padding's mark (N, K, 4) into vectors (N, K, 3)."""
        padding = torch.zeros(1, 3, dtype=cell.dtype, device=cell.device)
        padding[0, 0] = self.padding_A
        return shifts @ torch.cat([cell, padding])
