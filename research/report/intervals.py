"""How sure a score is: percentile bootstrap over examples, t-interval over runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

SAMPLES = 1000
LEVEL = 0.95
BLOCK = 2**22
"""Counts held at once, 32 MiB of them."""


def resamples(n: int, samples: int = SAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield, `samples` times, how often each of `n` examples is drawn in n draws with replacement, int64[n].

    A count says the same as a list of indices, and sums over the resample become a product with what is summed.
    """
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(generator.integers(0, n, n), minlength=n)


def resampled_counts(counts: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield, `samples` times, how many examples of each kind are drawn, int64[K], where there are int[K] of it.

    The same as resampling the examples one by one, at the cost of the kinds: for few of them, such as the cells of a
    confusion matrix.
    """
    generator, total = np.random.default_rng(seed), int(np.sum(counts))
    shares = np.asarray(counts, np.float64) / total
    for _ in range(samples):
        yield generator.multinomial(total, shares)


def resampled_sums(values: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Return the sums of the rows of number[N, K] over `resamples` of them, float64[samples, K].

    100,000 rows of a few values take about two seconds, most of it for the draws.
    """
    values = np.asarray(values, np.float64)
    draws, sums = resamples(len(values), samples, seed), []
    together = max(1, BLOCK // len(values))  # one matrix product of many resamples reads the values once
    while block := list(itertools.islice(draws, together)):
        sums.append(np.stack(block).astype(np.float64) @ values)
    return np.concatenate(sums)


def in_blocks(values: np.ndarray, block: int) -> np.ndarray:
    """Return number[N, ...] summed over each `block` neighbours, number[ceil(N / block), ...]; the last may be fewer."""
    return np.add.reduceat(values, np.arange(0, len(values), block), axis=0)


def percentiles(statistics: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the central `level` of float[samples, ...] along its first axis, float64[...] each.

    Resamples where the statistic is undefined (nan: a correlation of constants) are left out; nan where all are.
    """
    statistics = np.asarray(statistics, np.float64)
    low, high = np.full(statistics.shape[1:], np.nan), np.full(statistics.shape[1:], np.nan)
    for at in np.ndindex(statistics.shape[1:]):
        known = statistics[(slice(None), *at)]
        known = known[~np.isnan(known)]
        if known.size:
            low[at], high[at] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def interval(statistics: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """Return the `percentiles` of float[samples] as a result holds them: [low, high], or None where undefined."""
    low, high = (float(end) for end in percentiles(statistics, level))
    return None if np.isnan(low) else [low, high]


def bootstrap(
    statistic: Callable[[np.ndarray], float | np.ndarray],
    n: int,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of a statistic of `n` examples (Efron and Tibshirani, 1993, section 13.3).

    Args:
        statistic: Of how often each example is drawn, int64[n]; a number, or several at once, float[...].
        n: Number of examples.
        samples: Number of resamples.
        seed: Of the draws: the same seed gives the same interval.
        level: Share of the resamples that lie inside.

    Returns:
        The lower and the upper end, float64[...] each; nan where the statistic is.
    """
    return percentiles(np.stack([np.asarray(statistic(drawn)) for drawn in resamples(n, samples, seed)]), level)


def over_seeds(values: Sequence[float], level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """Return the mean over runs and the ends of its t-interval; the ends are None where there is only one run.

    Raises:
        ValueError: There is no run.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("there is no run to take the mean of")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, None, None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
