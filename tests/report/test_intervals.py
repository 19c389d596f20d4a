"""Intervals hold what they should as often as they should, and repeat by seed."""

import numpy as np
import pytest
from scipy import stats

from research.report.intervals import (
    bootstrap,
    interval,
    over_seeds,
    percentiles,
    resampled_counts,
    resampled_sums,
    resamples,
)


def test_a_resample_draws_as_many_as_there_are():
    drawn = list(resamples(7, samples=50))
    assert len(drawn) == 50 and all(each.shape == (7,) and each.sum() == 7 and each.min() >= 0 for each in drawn)
    assert len({each.tobytes() for each in drawn}) > 40


def test_sums_are_those_of_the_drawn_rows(monkeypatch):
    monkeypatch.setattr("research.report.intervals.BLOCK", 9 * 7)  # several blocks, the last one shorter
    values = np.random.default_rng(1).normal(size=(9, 2))
    sums = resampled_sums(values, samples=20, seed=3)
    slow = [sum(values[i] * times for i, times in enumerate(drawn)) for drawn in resamples(9, 20, seed=3)]
    np.testing.assert_allclose(sums, slow)


def test_examples_of_a_kind_may_be_drawn_together():
    # 60 zeros and 40 ones, one by one or as two kinds: the same distribution of the number of ones.
    each = resampled_sums(np.repeat([0.0, 1.0], [60, 40])[:, None], samples=4000)[:, 0]
    together = np.stack(list(resampled_counts(np.array([60, 40]), samples=4000)))
    assert (together.sum(axis=1) == 100).all()
    for ones in (each, together[:, 1]):
        assert abs(ones.mean() - 40) < 0.5 and abs(ones.std() - np.sqrt(100 * 0.4 * 0.6)) < 0.2


def test_the_mean_of_normal_values_has_the_normal_interval():
    values = np.random.default_rng(0).normal(2, 3, size=2000)
    low, high = bootstrap(lambda drawn: drawn @ values / 2000, 2000, samples=4000)
    half = 1.96 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.1 * half)
    narrow = bootstrap(lambda drawn: drawn @ values / 2000, 2000, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_about_95_of_100_intervals_hold_the_truth():
    generator = np.random.default_rng(5)
    held = 0
    for i in range(200):
        values = generator.exponential(size=60)
        low, high = interval(resampled_sums(values[:, None], samples=300, seed=i)[:, 0] / 60)
        held += low <= 1 <= high
    assert 0.87 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=(50, 1))
    assert interval(resampled_sums(values)[:, 0]) == interval(resampled_sums(values)[:, 0])
    assert interval(resampled_sums(values)[:, 0]) != interval(resampled_sums(values, seed=1)[:, 0])


def test_undefined_resamples_are_left_out():
    low, high = percentiles(np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]]), level=1.0)
    assert (low[0], high[0]) == (1, 3) and np.isnan([low[1], high[1]]).all()
    assert interval(np.full(5, np.nan)) is None


def test_runs_have_the_interval_of_scipy():
    values = [0.91, 0.93, 0.90, 0.94, 0.92]
    mean, low, high = over_seeds(values)
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([mean, low, high], [np.mean(values), *expected])
    assert over_seeds([0.5]) == (0.5, None, None) and over_seeds([0.5, 0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no run"):
        over_seeds([])
