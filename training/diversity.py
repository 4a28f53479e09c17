"""Which structures to label, so that no label is spent on a copy: farthest point sampling."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from compactff_md.training.descriptors import describe_all

BLOCK = 4000  # candidates looked at together: the cost is their number times that of the chosen


def most_diverse(structures: Sequence[ase.Atoms], count: int) -> list[int]:
    """Indices of ``count`` structures that are unlike each other, in ascending order.

    All, where there are no more than that. Beyond 4,000 they are dealt into blocks of which each gives
    its share.
    """
    if count >= len(structures):
        return list(range(len(structures)))
    features = describe_all(structures)
    blocks = -(-len(structures) // BLOCK)
    shares = [count // blocks + (k < count % blocks) for k in range(blocks)]
    chosen: list[int] = []
    for k, share in enumerate(shares):
        members = np.arange(k, len(structures), blocks)
        chosen += members[farthest_points(features[members], share)].tolist()
    return sorted(chosen)


def farthest_points(features: np.ndarray, count: int, known: np.ndarray | None = None) -> list[int]:
    """Rows of ``features`` (F, D), each the farthest from those before it.

    Gonzalez, Theor. Comput. Sci. 38, 293 (1985): no row is then farther from the chosen ones than twice
    the least possible.

    Parameters
    ----------
    known
        Rows (G, D) that are there already; None starts with the row nearest to the mean.
    """
    count = min(count, len(features))
    if count == 0:
        return []
    distance = np.full(len(features), np.inf)
    chosen: list[int] = []
    if known is not None and len(known):
        for row in known:
            distance = np.minimum(distance, ((features - row) ** 2).sum(1))
    else:
        chosen.append(int(((features - features.mean(0)) ** 2).sum(1).argmin()))
        distance = ((features - features[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((features - features[chosen[-1]]) ** 2).sum(1))
    return chosen
