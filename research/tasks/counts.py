"""Precision, recall and F1 from counts of what was right, predicted and gold: of labels, of entities, of tags."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from research.report.intervals import interval


class Counts(NamedTuple):
    """Counts for each of n labels, number[..., n] each: for one set of examples, or for many resamples of it."""

    right: np.ndarray
    predicted: np.ndarray
    gold: np.ndarray

    @classmethod
    def split(cls, values: np.ndarray) -> Counts:
        """Return the counts that lie side by side in number[..., 3 n], as resampled sums do."""
        return cls(*np.split(values, 3, axis=-1))

    @property
    def micro(self) -> Counts:
        """The counts of all labels together, number[..., 1]."""
        return Counts(*(np.sum(part, axis=-1, keepdims=True) for part in self))

    @property
    def present(self) -> np.ndarray:
        """bool[..., n], labels that are gold or predicted anywhere: those that a macro average is over."""
        return (self.gold + self.predicted) > 0

    @property
    def precision(self) -> np.ndarray:
        """float64[..., n]; 0 where nothing is predicted."""
        return _ratio(self.right, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """float64[..., n]; 0 where nothing is gold."""
        return _ratio(self.right, self.gold)

    @property
    def f1(self) -> np.ndarray:
        """float64[..., n]; 0 where nothing is right."""
        return _ratio(2 * self.right, self.predicted + self.gold)

    def macro(self, scores: np.ndarray) -> np.ndarray:
        """Return the mean of `scores`, float[..., n], over the labels that are present; 0 where none is."""
        return _ratio(np.sum(scores, axis=-1, where=self.present), np.sum(self.present, axis=-1))


def by_label(names: list[str] | tuple[str, ...], counts: Counts, resampled: Counts) -> dict[str, dict[str, Any]]:
    """Return precision, recall and F1 of each label, with their intervals, and its support.

    Args:
        names: Of the n labels.
        counts: number[n] each.
        resampled: The counts of resamples, number[samples, n] each.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for score in ("precision", "recall", "f1"):
        values, spread = getattr(counts, score), getattr(resampled, score)
        for i, name in enumerate(names):
            found[name] |= {score: float(values[i]), f"{score}_interval": interval(spread[:, i])}
    return {name: each | {"support": int(counts.gold[i])} for i, (name, each) in enumerate(found.items())}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
