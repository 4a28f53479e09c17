"""Whether two sets of runs sample the same distribution, judged by how much equal runs differ by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

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
    worst, worst_excess, worst_p
        The group whose histograms differ most beyond chance, its excess, and how often any group of mixed
        blocks has as much.
    """

    distance: float
    by_chance: float
    spread: float
    p: float
    worst: int = 0
    worst_excess: float = 0.0
    worst_p: float = 1.0

    @property
    def excess(self) -> float:
        """How much more they differ than by chance, which adds to a difference in squares."""
        return float(_beyond(self.distance, self.by_chance))

    @property
    def resolution(self) -> float:
        """The excess that chance alone reaches once in twenty times."""
        return float(_beyond(self.spread, self.by_chance))


def total_variation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Half of the summed difference of histograms (G, X), each normalised, shape (G,)."""
    return 0.5 * np.abs(_normalised(a) - _normalised(b)).sum(-1)


def difference(reference: np.ndarray, student: np.ndarray, seed: int) -> Difference:
    """Compare blocks of histograms by permutation.

    Parameters
    ----------
    reference, student
        Shape (R, G, X) and (S, G, X): R and S independent blocks of G histograms with X bins; the
        histograms of all groups are tested at once, so that there is one chance of error and not G, and the
        worst of them again. Groups without a count on either side are left out.
    """
    counted = np.flatnonzero((reference.sum((0, -1)) + student.sum((0, -1))) > 0)
    if not len(counted):
        return Difference(0.0, 0.0, 0.0, 1.0)
    reference, student = reference[:, counted], student[:, counted]
    pool = np.concatenate([reference, student])
    noise = np.concatenate([_deviations(reference), _deviations(student)])
    ways = _assignments(len(pool), len(reference), seed)
    # Of each way and group, shape (W, G).
    mixed = np.array([total_variation(pool[rows].mean(0), pool[~rows].mean(0)) for rows in ways])
    chance = np.array([0.5 * np.abs(noise[rows].mean(0) - noise[~rows].mean(0)).sum(-1) for rows in ways])
    measured = total_variation(reference.mean(0), student.mean(0))
    excess, of_mixed = (_beyond(distances, chance.mean(0)) for distances in (measured, mixed))
    worst = int(np.argmax(excess))
    return Difference(
        float(measured.mean()),
        float(chance.mean()),
        float(np.quantile(chance.mean(1), 0.95)),
        _share(mixed.mean(1), float(measured.mean())),
        int(counted[worst]),
        float(excess[worst]),
        _share(of_mixed.max(1), float(excess[worst])),
    )


def _share(found: np.ndarray, least: float) -> float:
    """How often what was found by chance is at least this, counting what was measured, too."""
    return float((1 + (found >= least - 1e-12).sum()) / (1 + len(found)))


def compare(
    campaign: Campaign,
    key: str,
    reference: np.ndarray,
    student: np.ndarray,
    note: str = "",
    groups: Sequence[str] = (),
) -> Finding:
    """The finding of a test, from blocks of histograms as in :func:`difference`; ``groups`` names them."""
    seed = campaign.seed(key)
    return judge_difference(key, reference, student, campaign.thresholds.get(key), seed, note, groups)


def judge_difference(
    key: str,
    reference: np.ndarray,
    student: np.ndarray,
    limit: Threshold | None,
    seed: int,
    note: str = "",
    groups: Sequence[str] = (),
) -> Finding:
    """Judge the excess over chance.

    Failed where the difference is significant and its excess beyond the threshold, of the mean over the
    groups or of the worst of them; passed where the excess is within it and the runs are long enough to have
    shown one beyond of the mean; otherwise undecided.
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
    value = found.excess
    if found.worst_p <= SIGNIFICANT and found.worst_excess > maximum and not few:
        if found.worst_excess > value and reference.shape[1] > 1:
            words += f"; of all, {found.excess:.3f}; told is the worst, {_name(groups, found.worst)}"
            value = found.worst_excess
        unclear = blunt = False
    if few or blunt:
        words += "; the runs are too short for a verdict"
    return judge(key, value, "", limit, note="; ".join(filter(None, (words, note))), undecided=unclear)


def _name(groups: Sequence[str], place: int) -> str:
    return groups[place] if groups else f"number {place + 1}"


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


def _beyond(distance: Any, by_chance: Any) -> Any:
    return np.sqrt(np.maximum(0.0, np.square(distance) - np.square(by_chance)))


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
