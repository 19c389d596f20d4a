"""What a score is made of: documents, rows, blocks or examples, whose sums intervals and paired tests resample.

Neighbours in a running text are of one story, so their losses are not independent, and resampling them one by one
would find differences that are none. Units other than examples are therefore resampled in blocks of neighbours (Künsch,
1989), n^(1/3) of n of them (the rate of Hall, Horowitz and Jing, 1995), but so that 20 blocks or more are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from research.types import UserError

if TYPE_CHECKING:
    from research.report.runs import Logged

SUMS = {"loss": "nll", "perplexity": "nll", "bits_per_byte": "nll", "accuracy": "right"}
LEAST = 20
"""Blocks that are left at least, where there are as many units."""


class Units(NamedTuple):
    """Sums over n units, float64[n]: of a score's values, and of what they are divided by."""

    kind: str  # document, row, block, example
    values: np.ndarray
    weight: np.ndarray

    @property
    def block(self) -> int:
        """How many neighbours are resampled together."""
        return 1 if self.kind == "example" else block_length(len(self.values))


def units(run: Logged, score: str) -> Units | None:
    """Return the units that a run's score of its split is made of; None where they are not kept.

    The sums are nats for loss, perplexity and bits per byte, and right answers for accuracy.

    Raises:
        UserError: The file is damaged: sums and weights are not as many numbers, or do not give the score beside them.
    """
    held, name = run.evaluated, SUMS.get(score)
    kept = held.get("units")
    if not kept or name is None or run.holder(score) is not held or (isinstance(kept, dict) and name not in kept):
        return None
    try:
        values, weight = np.asarray(kept[name], np.float64), np.asarray(kept["weight"], np.float64)
        if values.shape != weight.shape or values.ndim != 1:
            raise ValueError
        if not (np.isfinite(values).all() and np.isfinite(weight).all() and weight.sum() > 0):
            raise ValueError
        mean, told = values.sum() / weight.sum(), held["loss" if name == "nll" else score]
        if abs(mean - told) > 1e-3 * max(1.0, abs(told)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{run.folder}/scores/{run.split}.json: units are not as many {name} as weight, or are not what the score "
            "is of: evaluate the run again"
        ) from None
    return Units(str(kept.get("kind", "unit")), values, weight)


def block_length(n: int) -> int:
    """Return how many of `n` neighbouring units are resampled together."""
    return max(1, min(int(np.cbrt(n) + 1e-9), n // LEAST))
