"""A neighbour list with a skin, for the exported module: most steps reuse the table of an earlier one.

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
from torch import Tensor

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
    num_builds
        How many tables were made so far, this one included.
    """

    neighbours: Tensor
    shifts: Tensor
    offsets_A: Tensor
    offsets_cell: Tensor
    reference_A: Tensor
    cell: Tensor
    inverse: Tensor
    periodicity: int
    num_builds: int


def empty_table() -> VerletTable:
    """Return the table of no atoms, which fits no structure."""
    index = torch.zeros(0, 1, dtype=torch.int64)
    vector = torch.zeros(0, 3, dtype=torch.float64)
    cell = torch.zeros(3, 3, dtype=torch.float64)
    return VerletTable(index, vector, vector, cell, vector, cell, cell, -1, 0)


def current_table(
    table: VerletTable,
    positions: Tensor,
    cell: Tensor,
    pbc: list[bool],
    cutoff_A: float,
    skin_A: float,
    small: int = SMALL_MOLECULE,
) -> VerletTable:
    """Return a table that holds at these positions: the one given, or a new one.

    One call waits for the device once (to learn whether the table still holds), and a few times more
    when it builds; for a free molecule of up to 48 atoms it never does after the first call.

    Parameters
    ----------
    table
        What the last call returned, or :func:`empty_table`.
    positions
        In A, shape (N, 3), float64, may lie outside the cell.
    cell
        Lattice vectors as rows, shape (3, 3), float64; rows of directions that are not periodic do
        not matter.
    pbc
        Whether each of the three directions is periodic.
    cutoff_A
        Every pair up to this distance is in the table, and some beyond.
    skin_A
        How much farther the table reaches: wider means fewer builds and more pairs.

    Raises
    ------
    RuntimeError
        On non-finite positions and impossible cells, where a table has to be built.
    """
    periodicity = periodicity_of(pbc)
    number = positions.shape[0]
    fits = (
        table.periodicity == periodicity
        and table.neighbours.shape[0] == number
        and table.neighbours.device == positions.device
    )
    if periodicity == 0 and 1 < number <= small:
        return table if fits else everyone(positions, table.num_builds + 1)
    if fits:
        # The one wait for the device.
        both: list[float] = drift(table, positions, cell, cutoff_A, skin_A).tolist()
        lacking, changed = both[0], both[1]
        if lacking <= 0.0:  # not where it is NaN
            return with_cell(table, cell) if changed > 0.0 else table
    return build(positions, cell, pbc, cutoff_A + skin_A, table.num_builds + 1)


def vectors_of(table: VerletTable, positions: Tensor) -> Tensor:
    """Vectors ``r_j - r_i`` to the neighbours in A, shape (N, K, 3), float64; padding is 1000 A long."""
    others = positions.index_select(0, table.neighbours.flatten()).view(table.neighbours.shape + (3,))
    vectors = others - positions.unsqueeze(1)
    if table.offsets_A.numel() > 0:
        vectors = vectors + table.offsets_A
    return vectors


def periodicity_of(pbc: list[bool]) -> int:
    """Return three flags as one number."""
    return int(pbc[0]) + 2 * int(pbc[1]) + 4 * int(pbc[2])


def with_cell(table: VerletTable, cell: Tensor) -> VerletTable:
    """Return the table with offsets for a cell that has changed a little."""
    return VerletTable(
        table.neighbours,
        table.shifts,
        cartesian(table.shifts, cell),
        cell.clone(),
        table.reference_A,
        table.cell,
        table.inverse,
        table.periodicity,
        table.num_builds,
    )


def drift(table: VerletTable, positions: Tensor, cell: Tensor, cutoff_A: float, skin_A: float) -> Tensor:
    """Return by how many A the skin falls short, and how much the cell of the offsets has changed, (2,)."""
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
    lacking = largest + strain_norm * (cutoff_A + skin_A) - skin_A
    return torch.stack([lacking, changed])


def build(positions: Tensor, cell: Tensor, pbc: list[bool], radius: float, num_builds: int) -> VerletTable:
    """Make a new table of every pair within ``radius``."""
    i, j, moves = find_pairs(positions, cell, pbc, radius)
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
    # Clones: a caller may move its atoms in place, and OpenMM lends its own memory.
    return VerletTable(
        neighbours.view(number, width),
        shifts,
        cartesian(shifts, cell),
        cell.clone(),
        positions.clone(),
        cell.clone(),
        inverse,
        periodicity_of(pbc),
        num_builds,
    )


def everyone(positions: Tensor, num_builds: int) -> VerletTable:
    """Make the table of a small free molecule: all other atoms, without offsets."""
    number, device = positions.shape[0], positions.device
    places = torch.arange(number * number, device=device)
    others = places[places % (number + 1) != 0]  # off the diagonal
    neighbours = (others % number).view(number, number - 1)
    none = torch.zeros(0, 3, dtype=positions.dtype, device=device)
    return VerletTable(neighbours, none, none, none, none, none, none, 0, num_builds)


def cartesian(shifts: Tensor, cell: Tensor, padding_A: float = PADDING_A) -> Tensor:
    """Turn whole lattice vectors and the padding's mark (N, K, 4) into vectors (N, K, 3)."""
    padding = torch.zeros(1, 3, dtype=cell.dtype, device=cell.device)
    padding[:, :1].fill_(padding_A)  # to set an element would be a copy from the CPU
    return shifts @ torch.cat([cell, padding])
