"""Paired tests are scipy's, hold their level, and see what is there; Holm's correction is what he wrote."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from research.report.intervals import in_blocks
from research.report.statistics import attainable, cohens_d, holm, paired, permutation
from research.report.units import block_length

PS = st.lists(st.floats(0, 1), min_size=1, max_size=12)
APART = st.lists(st.integers(-50, 50), min_size=2, max_size=9)


@settings(max_examples=40, deadline=None)
@given(APART)
def test_all_swaps_give_the_p_of_scipy(apart):
    apart = np.array(apart, np.float64)
    found = stats.permutation_test(
        (apart,), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples", vectorized=True, n_resamples=10_000
    )
    if np.any(apart):  # its two-sided p doubles the smaller tail; swaps are symmetric, so both tails are as large
        assert permutation(apart) == pytest.approx(found.pvalue)
    assert attainable(len(apart)) <= permutation(apart) <= 1


def test_drawn_swaps_are_near_all_swaps():
    apart = np.random.default_rng(3).normal(0.4, 1, 12)
    every, drawn = permutation(apart, resamples=4096), permutation(apart, resamples=4000)
    assert every != drawn and abs(every - drawn) < 0.03
    assert drawn == permutation(apart, resamples=4000) != permutation(apart, resamples=4000, seed=1)


def test_p_is_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(0)
    ps = [permutation(generator.standard_t(3, 40), resamples=200, seed=i) for i in range(400)]
    assert stats.kstest(ps, "uniform").pvalue > 0.001
    assert 0.02 < np.mean(np.array(ps) <= 0.05) < 0.08


def test_a_difference_of_ratios_is_that_of_the_whole_text():
    generator = np.random.default_rng(0)
    weight = generator.integers(5, 40, 300).astype(float)
    first = weight * generator.normal(4.6, 0.5, 300)
    second = first + weight * generator.normal(0.02, 0.05, 300)
    found = paired(first, second, weight)
    assert found.difference == pytest.approx(first.sum() / weight.sum() - second.sum() / weight.sum())
    assert found.low < found.difference < found.high < 0
    assert found.permutation == pytest.approx(1 / 10_001) and found.bootstrap < 0.01 and found.n == 300
    other = paired(second, first, weight)
    assert (other.difference, other.low, other.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_the_interval_covers_a_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = 0
    for i in range(150):
        found = paired(generator.normal(0.3, 1, 60), np.zeros(60), samples=300, resamples=50, seed=i)
        held += found.low <= 0.3 <= found.high
    assert 0.88 <= held / 150 <= 0.99


def test_blocks_keep_their_level_where_neighbours_are_alike():
    generator = np.random.default_rng(2)
    found = {1: [], 16: []}
    for i in range(150):
        draws = generator.normal(size=(400, 8))  # a moving mean: neighbours share most of it
        noise = np.convolve(draws[:, 0], np.ones(8), "same")
        for block, ps in found.items():
            ps.append(paired(noise, np.zeros(400), block=block, samples=50, resamples=200, seed=i).permutation)
    falsely = {block: np.mean(np.array(ps) <= 0.05) for block, ps in found.items()}
    assert falsely[1] > 0.25 and falsely[16] < 0.15


def test_blocks_are_sums_of_neighbours_and_there_are_20_of_them():
    np.testing.assert_array_equal(in_blocks(np.arange(14).reshape(7, 2), 3), [[6, 9], [24, 27], [12, 13]])
    assert [block_length(n) for n in (1, 39, 40, 200, 3761, 100_000)] == [1, 1, 2, 5, 15, 46]
    whole, parts = np.arange(60.0), np.zeros(60)
    found = paired(whole, parts, block=3)
    assert (found.n, found.blocks, found.difference) == (60, 20, pytest.approx(29.5))
    assert found.effect == paired(whole, parts).effect


def test_the_same_model_is_not_better():
    values = np.arange(5.0)
    found = paired(values, values)
    assert (found.difference, found.bootstrap, found.permutation, found.effect) == (0, 1, 1, None)
    with pytest.raises(ValueError, match="two units or more"):
        paired(values[:1], values[:1])
    with pytest.raises(ValueError, match="5 and 4"):
        paired(values, values[:4])


def test_effect_is_the_t_statistic_over_root_n():
    apart = np.random.default_rng(0).normal(0.5, 1, 30)
    assert cohens_d(apart) == pytest.approx(stats.ttest_1samp(apart, 0).statistic / np.sqrt(30))


@settings(deadline=None)
@given(PS)
def test_holm_keeps_order_and_lies_between_nothing_and_bonferroni(ps):
    found = holm(ps)
    assert all(p <= q <= min(1, len(ps) * p) + 1e-12 for p, q in zip(ps, found, strict=True))
    order = np.argsort(ps, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= 0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
