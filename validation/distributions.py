"""Whether two sets of runs sample the same distribution, judged by how much equal runs differ by chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, judge
from compactff_md.validation.thresholds import Threshold

# Fewer blocks than this on a side have too few ways to be mixed: no permutation could reach 1 %.
FEWEST_BLOCKS = 6
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
        Its mean between equal distributions in runs this long: where each side's deviations from its own
        mean are mixed at random, so that a difference of the means is not in it.
    spread
        The 95 % quantile of that.
    p
        How often the blocks themselves, mixed at random, are at least as far apart.
    """

    distance: float
    by_chance: float
    spread: float
    p: float

    @property
    def excess(self) -> float:
        """How much more they differ than by chance, which adds to a difference in squares."""
        return _beyond(self.distance, self.by_chance)

    @property
    def resolution(self) -> float:
        """The excess that chance alone reaches once in twenty times."""
        return _beyond(self.spread, self.by_chance)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half of the summed difference of histograms (G, X), each normalised, averaged over the groups.

    Groups without a count on either side are left out.
    """
    counted = (a.sum(-1) + b.sum(-1)) > 0
    if not counted.any():
        return 0.0
    return 0.5 * float(np.abs(_normalised(a) - _normalised(b)).sum(-1)[counted].mean())


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
    noise = np.concatenate([_deviations(reference), _deviations(student)])
    counted = (reference.sum((0, -1)) + student.sum((0, -1))) > 0
    chance = np.array(
        [
            0.5 * np.abs(noise[rows].mean(0) - noise[~rows].mean(0)).sum(-1)[counted].mean()
            for rows in _assignments(len(pool), count, seed)
        ]
        if counted.any()
        else [0.0]
    )
    return Difference(measured, float(chance.mean()), float(np.quantile(chance, 0.95)), float(p))


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

    Failed where the difference is significant and its excess beyond the threshold; passed where the excess
    is within it and the runs are long enough to have shown one beyond; otherwise undecided.
    """
    if min(len(reference), len(student)) < 2:
        reason = "fewer than two independent blocks: the runs are too short"
        return judge(key, None, "", limit, note=reason)
    found = difference(reference, student, seed)
    few = min(len(reference), len(student)) < FEWEST_BLOCKS
    maximum = limit.maximum if limit and limit.maximum is not None else np.inf
    blunt = found.excess <= maximum < found.resolution
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


def _normalised(histograms: np.ndarray) -> np.ndarray:
    return histograms / np.maximum(histograms.sum(-1, keepdims=True), 1e-300)


def _deviations(blocks: np.ndarray) -> np.ndarray:
    """Of each block from the mean of its side, in units of that mean's counts, shape (B, G, X).

    From as much of the mean as the block has counts, as histograms are compared normalised. They are widened
    by what the mean took from them.
    """
    mean = blocks.mean(0)
    total = np.maximum(mean.sum(-1, keepdims=True), 1e-300)
    expected = mean * blocks.sum(-1, keepdims=True) / total
    return (blocks - expected) / total * np.sqrt(len(blocks) / (len(blocks) - 1))


def _beyond(distance: float, by_chance: float) -> float:
    return float(np.sqrt(max(0.0, distance**2 - by_chance**2)))


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
