"""Errors of correlated series, against processes whose statistics are known."""

import numpy as np
import pytest
from scipy import stats

from compactff_md.validation import statistics as st


def autoregressive(phi: float, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros(count)
    for k in range(1, count):
        x[k] = phi * x[k - 1] + rng.normal()
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_inefficiency_of_an_autoregressive_process(phi):
    found = st.statistical_inefficiency(autoregressive(phi, 60_000))
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.15)


@pytest.mark.parametrize("series", [np.ones(50), np.array([1.0, 2.0]), np.arange(3.0)])
def test_inefficiency_of_what_tells_nothing(series):
    assert st.statistical_inefficiency(series) == 1.0


def test_bootstrap_of_a_mean_is_that_of_the_normal_distribution():
    x = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = st.bootstrap_interval(x, lambda y: float(y.mean()), seed=2)
    half = 1.96 * x.std(ddof=1) / 20
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.06)
    assert st.bootstrap_interval(x, np.mean, seed=2) == st.bootstrap_interval(x, np.mean, seed=2)


def test_slope_ignores_outliers_and_covers_the_truth():
    t = np.linspace(0, 10, 2000)
    y = 0.3 * t + 0.05 * autoregressive(0.7, 2000, 3)
    y[500:510] += 50.0
    slope = st.robust_slope(t, y)
    assert slope.low < 0.3 < slope.high
    assert slope.value == pytest.approx(0.3, abs=0.02)
    assert abs(np.polyfit(t, y, 1)[0] - 0.3) > 0.02  # a plain fit follows them


def test_too_short_for_a_slope():
    slope = st.robust_slope(np.arange(3.0), np.arange(3.0))
    assert np.isnan(slope.value) and slope.low == -np.inf


def test_trends():
    flat, rising = autoregressive(0.5, 4000), autoregressive(0.5, 4000) + np.linspace(0, 8, 4000)
    assert not st.has_trend(flat) and st.has_trend(rising)


def test_equilibration_is_cut_off():
    x = autoregressive(0.3, 4000)
    x[:800] += np.linspace(40, 0, 800)
    assert 400 <= st.equilibrated_from(x) <= 1200
    assert st.equilibrated_from(autoregressive(0.3, 4000)) <= 800


def test_exact_intervals():
    assert st.rate_interval(0, 1.0) == (0.0, pytest.approx(3.6889, abs=1e-3))  # -ln 0.025
    low, high = st.rate_interval(10, 2.0)
    assert stats.poisson.sf(9, 2 * low) == pytest.approx(0.025)
    assert stats.poisson.cdf(10, 2 * high) == pytest.approx(0.025)
    assert st.proportion_interval(0, 10) == (0.0, pytest.approx(0.3085, abs=1e-3))
    assert st.proportion_interval(0, 0) == (0.0, 1.0)


def test_blocks():
    assert st.block_means(np.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]
    assert st.independent_blocks(autoregressive(0.9, 95)) <= 3
