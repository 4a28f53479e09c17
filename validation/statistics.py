"""Errors of what is measured along correlated series: blocks, bootstrap, robust slopes, stationarity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 1000
# Two bounds of one 95 % interval miss the truth together in 5 %; a trend is believed from 99 % on.
TREND_LEVEL = 0.99


@dataclass(frozen=True)
class Slope:
    """A slope with its 95 % confidence interval, in units of y over x."""

    value: float
    low: float
    high: float


def statistical_inefficiency(series: np.ndarray) -> float:
    """How many successive samples hold the information of one, at least 1.

    ``1 + 2 tau`` with the integrated autocorrelation time, summed up to the first pair of lags whose sum
    is not positive, of sums that never grow (Geyer's initial monotone sequence, Stat. Sci. 7, 473 (1992)).

    Parameters
    ----------
    series
        Shape (T,).
    """
    x = np.asarray(series, dtype=np.float64)
    x = x - x.mean()
    n = len(x)
    if n < 4 or not x.any():
        return 1.0
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    correlation = np.fft.irfft(spectrum)[:n] / (x @ x)
    pairs = correlation[: n - n % 2].reshape(-1, 2).sum(1)
    stop = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: stop[0] if len(stop) else len(pairs)])
    return max(1.0, float(2.0 * kept.sum() - 1.0))


def block_means(series: np.ndarray, blocks: int) -> np.ndarray:
    """Means of equal parts of a series, along its first axis; shape (blocks, ...)."""
    parts = np.array_split(np.asarray(series, dtype=np.float64), min(blocks, len(series)))
    return np.array([part.mean(axis=0) for part in parts])


def independent_blocks(series: np.ndarray, most: int = 40) -> int:
    """How many blocks of a series are about independent: each five inefficiencies long; 0 for too short."""
    return min(most, int(len(series) / (5.0 * statistical_inefficiency(series))))


def bootstrap_interval(
    samples: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over independent samples (first axis)."""
    samples = np.asarray(samples)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(samples), (resamples, len(samples)))
    values = [statistic(samples[rows]) for rows in chosen]
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def robust_slope(x: np.ndarray, y: np.ndarray, blocks: int = 20, level: float = LEVEL) -> Slope:
    """Theil-Sen slope through means of blocks, with the interval of Kendall's rank correlation.

    Single rows of a log are correlated, their blocks much less; the median of all slopes between blocks
    does not follow a few that are off (Sen, J. Am. Stat. Assoc. 63, 1379 (1968)).
    """
    t, e = block_means(x, blocks), block_means(y, blocks)
    if len(t) < 4:
        return Slope(float("nan"), -math.inf, math.inf)
    value, _, low, high = stats.theilslopes(e, t, alpha=level)
    return Slope(float(value), float(low), float(high))


def has_trend(series: np.ndarray, blocks: int = 20) -> bool:
    """Whether a series drifts: its robust slope differs from zero at 99 %."""
    count = min(blocks, max(4, independent_blocks(series)))
    slope = robust_slope(np.arange(len(series), dtype=float), series, count, TREND_LEVEL)
    return slope.low > 0 or slope.high < 0


def equilibrated_from(series: np.ndarray, fractions: int = 10) -> int:
    """Index from which a series is stationary: that which leaves the most independent samples.

    Chodera, J. Chem. Theory Comput. 12, 1799 (2016); tried at tenths of the series.
    """
    starts = [len(series) * k // fractions for k in range(fractions)]
    counts = [(len(series) - start) / statistical_inefficiency(series[start:]) for start in starts]
    return starts[int(np.argmax(counts))]


def proportion_interval(successes: int, trials: int) -> tuple[float, float]:
    """Clopper-Pearson's exact 95 % interval of a probability."""
    if trials == 0:
        return 0.0, 1.0
    found = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def rate_interval(events: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of the rate of a Poisson process with ``events`` seen in ``exposure``."""
    tail = (1.0 - LEVEL) / 2
    low = stats.chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low / exposure), float(stats.chi2.ppf(1 - tail, 2 * events + 2) / 2 / exposure)
