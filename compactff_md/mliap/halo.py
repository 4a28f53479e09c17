"""Features of atoms on their way to where the atoms are only neighbours, in each build of LAMMPS.

A student's rows are the atoms of LAMMPS' list; its columns are these first, and then every other atom that
the process sees: ghosts, which another rank owns or which are periodic images, and atoms of no element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactff_md.mliap.messages import Messages


class NoHalo(nn.Module):
    """For one interaction, which needs no features of neighbours, and where ghosts have rows themselves.

    Atoms beyond the rows get zeros: none of those that count for an energy has them as a neighbour.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows

    def forward(self, rows: Tensor, count: int) -> Tensor:
        """Rows (N, F) -> (count, F), with zeros below."""
        return padded(rows, count)

    def fold(self, rows: Tensor) -> Tensor:
        """Take the rows (N, F) of those (M, F); nobody listens to the others."""
        return rows[: self.num_rows]


class KokkosHalo(nn.Module):
    """Exchange through LAMMPS' Kokkos build for GPUs, which does it on the device.

    Parameters
    ----------
    data
        LAMMPS' data object of this step.
    columns
        Column of each of LAMMPS' atoms, shape (M,); None where both have the same order.
    num_rows
        How many columns are rows.
    """

    def __init__(self, data: Any, columns: Tensor | None, num_rows: int) -> None:
        super().__init__()
        self.data = data
        self.columns = columns
        self.num_rows = num_rows

    def forward(self, rows: Tensor, count: int) -> Tensor:
        """Rows (N, F) of the owned atoms -> (count, F), those of ghosts from their owners."""
        own = padded(rows.detach(), count)
        own = own.contiguous() if self.columns is None else own[self.columns]
        everywhere = torch.empty_like(own)
        synchronise(own)
        self.data.forward_exchange(own, everywhere, rows.shape[1])
        synchronise(own)
        if self.columns is None:
            return everywhere
        return torch.empty_like(own).index_copy_(0, self.columns, everywhere)

    def fold(self, rows: Tensor) -> Tensor:
        """Rows (M, F) -> (N, F), what ghosts collected added to their owners'."""
        collected = rows.contiguous() if self.columns is None else rows[self.columns]
        summed = torch.empty_like(collected)
        synchronise(collected)
        self.data.reverse_exchange(collected, summed, rows.shape[1])
        synchronise(collected)
        if self.columns is not None:
            summed = torch.empty_like(summed).index_copy_(0, self.columns, summed)
        return summed[: self.num_rows]


class OwnerHalo(nn.Module):
    """Exchange of our own for LAMMPS' plain build, which has none, by the atoms' ids.

    Parameters
    ----------
    ids
        Of the columns, shape (M,); the first ``num_rows`` are unique over all ranks.
    num_rows
        How many columns are rows.
    messages
        To the other ranks; None where there are none. All ranks make their halo at the same time.

    Attributes
    ----------
    merged
        For each column the one that takes its place, shape (M,), int32: one for all images of an atom, and
        for those of own atoms their row.
    kept
        The columns that remain, shape (M',): the rows, and atoms of other ranks.
    """

    def __init__(self, ids: np.ndarray, num_rows: int, messages: Messages | None) -> None:
        super().__init__()
        self.messages = messages
        self.num_rows = num_rows
        order = np.argsort(ids[:num_rows], kind="stable")
        self._sorted = (ids[:num_rows][order], order)
        rows, here = self._rows_of(ids[num_rows:])
        others, first, image_of = np.unique(ids[num_rows:][~here], return_index=True, return_inverse=True)
        rows[~here] = num_rows + image_of
        kept = np.append(np.arange(num_rows), num_rows + np.flatnonzero(~here)[first])
        merged, self.kept = _tensors(np.append(np.arange(num_rows), rows), kept)
        self.merged = merged.int()  # read for every pair
        if messages is not None:
            self._plan(others, num_rows + np.arange(len(others)), messages)

    def forward(self, rows: Tensor, count: int) -> Tensor:
        """Rows (N, F) of the owned atoms -> (count, F), those of the kept columns from their owners."""
        if self.messages is None:
            return padded(rows, count)
        arrived = self.messages.exchange(rows[self.send_rows], self.sent, self.received)
        return padded(rows, count).index_copy_(0, self.ghosts, arrived)

    def fold(self, rows: Tensor) -> Tensor:
        """Rows (M', F) -> (N, F), what other ranks collected added to their owners'."""
        own = rows[: self.num_rows]
        if self.messages is None:
            return own
        arrived = self.messages.exchange(rows[self.ghosts], self.received, self.sent)
        return own.index_add(0, self.send_rows, arrived)

    def _rows_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the atoms with these ids, and which of them have one here."""
        known, order = self._sorted
        if not len(known):
            return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return order[place], known[place] == ids

    def _plan(self, ids: np.ndarray, ghosts: np.ndarray, messages: Messages) -> None:
        """Find the owners of the other ghosts; rank ``id % R`` keeps the book of where an atom is."""
        size = messages.size
        own = self._sorted[0]
        told, _, told_by = messages.send_lists(own, own % size)
        book = np.argsort(told, kind="stable")
        told, where = told[book], np.repeat(np.arange(size), told_by)[book]
        asked, sent, asked_by = messages.send_lists(ids, ids % size)
        place = np.minimum(np.searchsorted(told, asked), max(len(told) - 1, 0))
        known = told[place] == asked if len(told) else np.zeros(len(asked), dtype=bool)
        answers = np.where(known, where[place], -1) if len(told) else np.full(len(asked), -1)
        # Answers come back in the order of the questions, which were sorted by rank.
        heard = messages.exchange(torch.from_numpy(answers.astype(np.int64)), asked_by, sent).numpy()
        questions = np.argsort(ids % size, kind="stable")
        owners = np.empty(len(ids), dtype=np.int64)
        owners[questions] = heard
        # Atoms that are in nobody's list have no features, and nobody's neighbours are they.
        ids, ghosts, owners = (values[owners >= 0] for values in (ids, ghosts, owners))
        wanted, self.received, self.sent = messages.send_lists(ids, owners)
        self.send_rows, self.ghosts = _tensors(
            self._rows_of(wanted)[0], ghosts[np.argsort(owners, kind="stable")]
        )


def padded(rows: Tensor, count: int) -> Tensor:
    """Rows (N, F) with zeros below, shape (count, F); a copy, except where there are as many already."""
    if rows.shape[0] == count:
        return rows
    return torch.cat([rows, rows.new_zeros(count - rows.shape[0], rows.shape[1])])


def synchronise(like: Tensor) -> None:
    """Wait for the GPU: neither LAMMPS nor PyTorch knows of the other's streams."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array.astype(np.int64)) for array in arrays)
