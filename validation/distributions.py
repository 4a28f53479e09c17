"""Whether two sets of runs sample the same distribution, judged by how much equal runs differ by chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, judge
from compactff_md.validation.thresholds import Threshold

# Fewer blocks than this on a side have too few ways to be mixed: no permutation could reach 1 %.
FEWEST_BLOCKS = 5
PERMUTATIONS = 2000
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Difference:
    """Of two sets of histograms.

    Attributes
    ----------
    distance
        Total variation distance of the mean histograms, from 0 (equal) to 1 (nowhere together).
    by_chance
        Its mean where the blocks are mixed at random: what equal distributions show in runs this long.
    spread
        The 95 % quantile of that.
    p
        How often mixed blocks are at least as far apart.
    excess
        ``distance - by_chance``, at least 0.
    """

    distance: float
    by_chance: float
    spread: float
    p: float

    @property
    def excess(self) -> float:
        """How much more they differ than by chance."""
        return max(0.0, self.distance - self.by_chance)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half of the summed difference of two histograms (..., X), each normalised, averaged over the rest."""
    a = a / np.maximum(a.sum(-1, keepdims=True), 1e-300)
    b = b / np.maximum(b.sum(-1, keepdims=True), 1e-300)
    return 0.5 * float(np.abs(a - b).sum(-1).mean())


def difference(reference: np.ndarray, student: np.ndarray, seed: int) -> Difference:
    """Compare blocks of histograms by permutation.

    Parameters
    ----------
    reference, student
        Shape (R, G, X) and (S, G, X): R and S independent blocks of G histograms with X bins; the
        histograms of all groups are tested at once, so that there is one chance of error and not G.
    """
    pool = np.concatenate([reference, student])
    count = len(reference)
    measured = total_variation(reference.mean(0), student.mean(0))
    mixed = np.array(
        [
            total_variation(pool[rows].mean(0), pool[~rows].mean(0))
            for rows in _assignments(len(pool), count, seed)
        ]
    )
    p = (1 + (mixed >= measured - 1e-12).sum()) / (1 + len(mixed))
    return Difference(measured, float(mixed.mean()), float(np.quantile(mixed, 0.95)), float(p))


def compare(
    campaign: Campaign, key: str, reference: np.ndarray, student: np.ndarray, note: str = ""
) -> Finding:
    """The finding of a test, from blocks of histograms as in :func:`difference`."""
    seed = campaign.seed(key)
    return judge_difference(key, reference, student, campaign.thresholds.get(key), seed, note)


def judge_difference(
    key: str, reference: np.ndarray, student: np.ndarray, limit: Threshold | None, seed: int, note: str = ""
) -> Finding:
    """Judge the excess over chance.

    Failed where the difference is significant and its excess beyond the threshold; passed where equal
    distributions would show as much and the runs are long enough to have shown the threshold; otherwise
    undecided.
    """
    if min(len(reference), len(student)) < 2:
        reason = "fewer than two independent blocks: the runs are too short"
        return judge(key, None, "", limit, note=reason)
    found = difference(reference, student, seed)
    few = min(len(reference), len(student)) < FEWEST_BLOCKS
    maximum = limit.maximum if limit and limit.maximum is not None else np.inf
    blunt = found.spread - found.by_chance > maximum
    # Rejected: it is real. Not rejected: it could still be as large as chance lets it be.
    unclear = (found.p > SIGNIFICANT and found.excess > maximum) or few or blunt
    words = (
        f"distance {found.distance:.3f}, by chance {found.by_chance:.3f} (95 %: {found.spread:.3f}), "
        f"p = {found.p:.3g}, {len(reference)} and {len(student)} blocks"
    )
    if few or blunt:
        words += "; the runs are too short for a verdict"
    return judge(key, found.excess, "", limit, note="; ".join(filter(None, (words, note))), undecided=unclear)


def blocks_of(histograms: list[np.ndarray], length: int) -> np.ndarray:
    """Means over blocks of ``length`` frames of each run's histograms, shape (F, G, X) -> (B, G, X)."""
    parts = []
    for one in histograms:
        whole = len(one) // length
        parts += [one[k * length : (k + 1) * length].mean(0) for k in range(whole)]
    return np.array(parts)


def _assignments(total: int, count: int, seed: int) -> list[np.ndarray]:
    """Ways to choose ``count`` of ``total`` blocks: all, where there are few, else at random."""
    every = list(combinations(range(total), count)) if total <= 14 else None
    rows = []
    if every is not None:
        for chosen in every:
            row = np.zeros(total, dtype=bool)
            row[list(chosen)] = True
            rows.append(row)
        return rows
    rng = np.random.default_rng(seed)
    base = np.arange(total) < count
    return [rng.permutation(base) for _ in range(PERMUTATIONS)]
