"""Whether one model is better than another: paired tests, their correction for many, the size of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.report.intervals import in_blocks, interval, resampled_sums

RESAMPLES = 10_000
"""Of permutation tests."""
BOOTSTRAPS = 2_000
LEVEL = 0.05
BLOCK = 2**22
"""Signs held at once."""


class Paired(NamedTuple):
    """The difference of a mean between two models, over the same n units or n seeds that both were trained with."""

    difference: float
    """Of the first model's mean from the second's."""
    low: float
    high: float
    """Ends of the 95 % percentile interval of paired resamples."""
    bootstrap: float
    """Two-sided p of the paired bootstrap: twice the smaller share of resamples on one side of no difference."""
    permutation: float
    """Two-sided p of the paired permutation test."""
    effect: float | None
    """Paired Cohen's d of the units; None where all differences are the same."""
    n: int
    """Units."""
    block: int
    """Neighbouring units that were resampled and swapped together."""

    @property
    def blocks(self) -> int:
        """The number of blocks, which is n where units are independent."""
        return -(-self.n // self.block)


def paired(
    first: np.ndarray,
    second: np.ndarray,
    weight: np.ndarray | None = None,
    block: int = 1,
    samples: int = BOOTSTRAPS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Return how two models differ in sum(values) / sum(weight).

    The loss of a text is such a ratio: resamples of its documents divide their summed nll by their scored tokens.

    Args:
        first: float[N], summed values of each unit by one model.
        second: float[N], by the other.
        weight: float[N], what each unit counts in both; None: 1.
        block: Neighbours that are resampled and swapped together, since they are not independent (see `units`).
        samples: Of the bootstrap.
        resamples: Of the permutation test, where there are more ways to swap than that.
        seed: Of the draws: the same seed gives the same result.

    Raises:
        ValueError: The units are not the same number, or they are fewer than two blocks.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    weight = np.ones(len(first)) if weight is None else np.asarray(weight, np.float64)
    if not block < len(first) == len(second) == len(weight) >= 2:
        raise ValueError(f"paired tests are of two units or more, but there are {len(first)} and {len(second)}")
    apart = first - second
    together = in_blocks(np.stack([apart, weight], axis=1), block)
    sums = resampled_sums(together, samples, seed)
    ratios = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    low, high = interval(ratios) or (0.0, 0.0)
    side = 1 + min(np.sum(ratios <= 0), np.sum(ratios >= 0))
    return Paired(
        difference=float(apart.sum() / weight.sum()),
        low=low,
        high=high,
        bootstrap=min(1.0, 2 * float(side) / (samples + 1)),
        permutation=permutation(together[:, 0], resamples, seed),
        effect=cohens_d(apart),
        n=len(apart),
        block=block,
    )


def permutation(apart: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p of float[N] differences: how often swapping models at random gives a sum as far from 0.

    Every way of swapping is tried where there are at most `resamples`, so p is at least 2 / 2^N; else that many are
    drawn, and p is at least 1 / (resamples + 1) (Fisher, 1935, section 21; Phipson and Smyth, 2010).
    """
    apart = np.asarray(apart, np.float64)
    n = len(apart)
    observed = abs(apart.sum()) * (1 - 1e-9)  # sums in another order are as far from 0, whatever rounding says
    if 2**n <= resamples:
        swapped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((1 - 2 * swapped) @ apart) >= observed))
    # scipy.stats.permutation_test draws the same, but sorts random numbers to do so: 20 times slower.
    generator, as_far, together = np.random.default_rng(seed), 0, max(1, BLOCK // n)
    for start in range(0, resamples, together):
        swapped = generator.integers(0, 2, (min(together, resamples - start), n), np.int8)
        as_far += int(np.sum(np.abs(apart.sum() - 2 * (swapped @ apart)) >= observed))
    return (1 + as_far) / (1 + resamples)


def attainable(n: int, resamples: int = RESAMPLES) -> float:
    """Return the least p that `permutation` can give for `n` units: what it cannot fall below however they differ."""
    return 2 / 2**n if 2**n <= resamples else 1 / (resamples + 1)


def cohens_d(apart: np.ndarray) -> float | None:
    """Return the mean of float[N] paired differences in units of their standard deviation (d_z; Lakens, 2013, eq. 6).

    0.2, 0.5 and 0.8 are called small, medium and large (Cohen, 1988, section 2.2). None where all are
    the same.
    """
    spread = float(np.std(apart, ddof=1))
    return float(np.mean(apart)) / spread if spread > 0 else None


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm, 1979): none below what it was, at most 1."""
    order = np.argsort(ps, kind="stable")
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * float(ps[i])))
        corrected[i] = least
    return corrected
