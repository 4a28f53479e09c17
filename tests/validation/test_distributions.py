"""Verdicts on blocks of histograms whose true difference is known."""

import numpy as np
import pytest

from compactff_md.validation.distributions import difference, judge_difference, total_variation
from compactff_md.validation.thresholds import Threshold

BINS = 80
LIMIT = Threshold(maximum=0.05)


def apart(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Two distributions with this total variation distance."""
    flat, half = np.full(BINS, 1.0 / BINS), BINS // 2
    moved = flat.copy()
    moved[:half] *= 1 + 2 * min(distance, 0.5)
    moved[half:] *= 1 - 2 * min(distance, 0.5)
    if distance < 1.0:
        return flat, moved
    return np.r_[2 * flat[:half], np.zeros(half)], np.r_[np.zeros(half), 2 * flat[half:]]


def blocks(distance: float, count: int, samples: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.array([[rng.multinomial(samples, p).astype(float)] for _ in range(count)]) for p in apart(distance)
    ]


def verdicts(distance: float, count: int, samples: int) -> set[str]:
    found = (judge_difference("k", *blocks(distance, count, samples, s), LIMIT, 1) for s in range(4))
    return {finding.verdict for finding in found}


@pytest.mark.parametrize("count", [6, 10, 20])
@pytest.mark.parametrize("distance", [0.1, 0.15, 0.3, 0.5, 1.0])
def test_the_further_apart_the_more_it_fails(distance, count):
    assert verdicts(distance, count, 20_000) == {"fail"}


@pytest.mark.parametrize("count", [6, 10, 20])
@pytest.mark.parametrize("distance", [0.0, 0.03])
def test_what_is_within_the_threshold_passes(distance, count):
    assert verdicts(distance, count, 20_000) == {"pass"}


@pytest.mark.parametrize(("distance", "count", "samples"), [(0.1, 10, 300), (0.15, 6, 100)])
def test_a_difference_beyond_the_threshold_never_passes_for_noise(distance, count, samples):
    assert "pass" not in verdicts(distance, count, samples)


def test_few_or_noisy_blocks_decide_nothing():
    assert verdicts(0.0, 5, 20_000) == verdicts(1.0, 5, 20_000) == {"undecided"}
    assert verdicts(0.0, 6, 100) == {"undecided"}


def test_the_excess_is_the_true_distance_and_chance_does_not_know_of_it():
    chance = []
    for distance in (0.0, 0.1, 0.4):
        found = [difference(*blocks(distance, 12, 2000, seed), seed) for seed in range(6)]
        assert np.mean([one.excess for one in found]) == pytest.approx(distance, abs=0.02)
        chance.append(np.mean([one.by_chance for one in found]))
    assert max(chance) < 1.2 * min(chance)


@pytest.mark.parametrize("count", [7, 16])
def test_how_much_there_is_to_count_is_no_noise(count):
    """Pairs within reach come and go; where they are is the same."""
    rng = np.random.default_rng(0)
    shape = apart(0.0)[0]
    sides = [np.array([[5e4 * rng.uniform(0.5, 1.5) * shape] for _ in range(count)]) for _ in range(2)]
    sides = [rng.poisson(side).astype(float) for side in sides]
    finding = judge_difference("k", *sides, LIMIT, 1)
    assert finding.verdict == "pass", finding


def test_groups_without_counts_are_left_out():
    a, b = np.zeros((2, 4)), np.zeros((2, 4))
    a[0, 0] = b[0, 3] = 7.0
    assert total_variation(a, b).tolist() == [1.0, 0.0]
    stacked = [np.tile(one, (6, 1, 1)) for one in (a, b)]
    assert difference(*stacked, seed=1).distance == 1.0


@pytest.mark.parametrize(("distance", "verdict"), [(0.0, "pass"), (0.3, "fail")])
def test_one_wrong_group_of_many_fails_and_is_named(distance, verdict):
    same = [blocks(0.0, 8, 20_000, seed) for seed in range(11)]
    groups = [blocks(distance, 8, 20_000, 11), *same]
    sides = [np.concatenate([group[side] for group in groups], axis=1) for side in (0, 1)]
    finding = judge_difference("k", *sides, LIMIT, 1, groups=[f"G{k}" for k in range(12)])
    assert finding.verdict == verdict, finding
    assert ("the worst, G0" in finding.note) == (verdict == "fail")
    assert finding.value == pytest.approx(distance, abs=0.02)
