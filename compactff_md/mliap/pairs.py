"""LAMMPS' list of pairs as the table that students read, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compactff_md.neighbours import PADDING_A


@dataclass(frozen=True)
class PairTable:
    """Neighbours of N atoms, K a row, with where each pair is in it.

    Attributes
    ----------
    vectors
        ``r_j - r_i`` in A, shape (N, K, 3), filled up with vectors beyond any cutoff.
    neighbours
        Column of each neighbour, shape (N, K), int64; an atom's own where the row is filled up.
    places
        Index of each pair in the first two dimensions as one, shape (P,), int32 where that is enough.
    """

    vectors: Tensor
    neighbours: Tensor
    places: Tensor

    def of_pairs(self, gradients: Tensor) -> Tensor:
        """Entries (N, K, 3) of the table for each pair, shape (P, 3), float64, contiguous."""
        return gradients.reshape(-1, 3).index_select(0, self.places).to(torch.float64).contiguous()


def pair_table(
    rows: Tensor, columns: Tensor, vectors_A: Tensor, num_rows: int, dtype: torch.dtype
) -> PairTable:
    """Put pairs into a table, without a loop over atoms.

    Parameters
    ----------
    rows, columns
        Atom and neighbour of each pair, shape (P,), int32 or int64; pairs of an atom stand together.
    vectors_A
        Shape (P, 3).
    num_rows
        N; atoms without a pair get a row that is all filled up.
    dtype
        Of the table's vectors.
    """
    pairs, device = len(rows), rows.device
    starts = torch.ones_like(rows, dtype=torch.bool)  # the first pair of each atom
    torch.ne(rows[1:], rows[:-1], out=starts[1:])
    first = starts.nonzero().squeeze(1)  # (A,) for the A atoms that have pairs
    counts = torch.diff(first, append=first.new_full((1,), pairs))  # (A,)
    width = int(counts.max()) if pairs else 1
    owners = rows.index_select(0, first).long()
    index = torch.int32 if num_rows * width < 2**31 else torch.int64
    places = (owners * width - first).to(index).repeat_interleave(counts, output_size=pairs)
    places += torch.arange(pairs, dtype=index, device=device)
    # To gather is faster than to scatter: behind the pairs stands what fills up, an entry for each row.
    begin = torch.zeros(num_rows, 1, dtype=torch.int32, device=device)
    number = torch.zeros_like(begin)
    begin[owners, 0], number[owners, 0] = first.int(), counts.int()
    column = torch.arange(width, dtype=torch.int32, device=device)
    own = torch.arange(num_rows, dtype=torch.int32, device=device)
    source = torch.where(column < number, begin + column, (pairs + own).unsqueeze(1)).view(-1)  # (N K,)
    entries = vectors_A.new_empty((pairs + num_rows, 3), dtype=dtype)
    entries[:pairs] = vectors_A
    entries[pairs:, 0].fill_(PADDING_A)
    entries[pairs:, 1:].fill_(0.0)
    vectors = entries.index_select(0, source).view(num_rows, width, 3)
    neighbours = torch.cat([columns, own.to(columns.dtype)]).index_select(0, source).long()
    return PairTable(vectors, neighbours.view(num_rows, width), places)
