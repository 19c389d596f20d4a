"""Calibration: how often a model is right when it says that it is sure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15


class Calibration(NamedTuple):
    """Predictions sorted into bins of equal width by their confidence; nan means in a bin without any."""

    edges: np.ndarray
    """float64[bins + 1]; a bin holds its upper edge."""
    counts: np.ndarray
    """int64[bins], predictions."""
    confidence: np.ndarray
    """float64[bins], their mean confidence."""
    accuracy: np.ndarray
    """float64[bins], the share of them that is right."""

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1 (Guo et al., 2017, section 2)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.sum(self.counts * np.where(self.counts > 0, gaps, 0.0)) / np.sum(self.counts))


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """Return the calibration of predictions with `confidence`, float[N] from 0 to 1, of which bool[N] are right."""
    confidence = np.asarray(confidence, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    at = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(at, minlength=bins)
    sums = (np.bincount(at, weights=values, minlength=bins) for values in (confidence, np.asarray(right, np.float64)))
    means = (np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0) for total in sums)
    return Calibration(edges, counts, *means)
