"""How rows of atoms reach those who own only their neighbours: the seam for many ranks.

A student with several interactions needs features of its neighbours, and some neighbours belong to another
rank. A network asks its ``halo`` for them; an engine that runs over ranks puts its own in the place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalHalo(nn.Module):
    """One process that has a row for every atom: nothing needs to travel.

    Others do the same by communication, in a fixed number of calls an evaluation whatever atoms they own,
    so that no rank waits for another.
    """

    def forward(self, rows: Tensor, count: int) -> Tensor:
        """Rows of the owned atoms (N, F) -> of these and the others (count, F)."""
        return rows

    @torch.jit.export
    def fold(self, rows: Tensor) -> Tensor:
        """Sums collected at all atoms (M, F) -> at the owned ones (N, F), the others' share added."""
        return rows


class _Exchange(torch.autograd.Function):
    """A halo's exchange and its derivative."""

    @staticmethod
    def forward(context, rows: Tensor, halo: nn.Module, count: int) -> Tensor:
        context.halo = halo
        return halo(rows, count)

    @staticmethod
    def backward(context, *slopes: Tensor):
        return context.halo.fold(slopes[0].contiguous()), None, None


def exchanged(halo: nn.Module, rows: Tensor, count: int) -> Tensor:
    """``halo(rows, count)``, differentiated through :meth:`LocalHalo.fold` where it communicates."""
    if isinstance(halo, LocalHalo):
        return halo(rows, count)
    return _Exchange.apply(rows, halo, count)
