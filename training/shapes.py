"""Few shapes for the batches of a compiled run.

Each shape is compiled once, and everything is padded to it. So frames are sorted into a few classes by the
most neighbours that one of their atoms has, and the batches of a class have equally many rows, filled with
as many frames as fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_CLASSES = 4
LEAST_SAVING = 0.05  # of all padded pairs, for one more class


@dataclass(frozen=True)
class Shapes:
    """``rows`` atoms in every batch, and as many neighbours as one of ``widths``, which ascend."""

    rows: int
    widths: tuple[int, ...]

    def classes(self, widths: np.ndarray) -> np.ndarray:
        """Which of ``self.widths`` frames of these widths belong to, shape (F,)."""
        return np.searchsorted(self.widths, widths)

    def room_for(self, rows: int, width: int) -> tuple[int, int] | None:
        """The smallest shape that holds a batch, or None."""
        if rows > self.rows or width > self.widths[-1]:
            return None
        return self.rows, next(w for w in self.widths if w >= width)


def choose_shapes(sizes: np.ndarray, widths: np.ndarray, batch_size: int, batch_atoms: int) -> Shapes:
    """Shapes for frames of ``sizes`` atoms whose widest rows are ``widths``, both of shape (F,).

    There are as many rows as ``batch_size`` frames have on average, at most ``batch_atoms``, and no fewer
    than the largest frame has. A further width is added while that saves enough padding.
    """
    rows = max(int(sizes.max()), min(batch_atoms, int(np.ceil(batch_size * sizes.mean()))))
    chosen = [int(widths.max())]
    cost = _pairs(chosen, sizes, widths)
    while len(chosen) < MOST_CLASSES:
        more = [sorted([*chosen, int(w)]) for w in np.unique(widths) if w not in chosen]
        if not more:
            break
        best = min(more, key=lambda candidate: _pairs(candidate, sizes, widths))
        saved = cost - _pairs(best, sizes, widths)
        if saved < LEAST_SAVING * cost:
            break
        chosen, cost = best, cost - saved
    return Shapes(rows, tuple(chosen))


def _pairs(classes: list[int], sizes: np.ndarray, widths: np.ndarray) -> int:
    """Pairs with padding, if these were the widths."""
    return int((sizes * np.array(classes)[np.searchsorted(classes, widths)]).sum())
