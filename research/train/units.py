"""Losses token by token, and summed over documents: what models are mixed by, and what paired tests resample."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from research.data.batches import Rows

MOST = 100_000  # units kept of a split: a paired test of more would tell no more
FEW = 20  # documents, of fewer of which a test would tell little: blocks of the text are kept instead
BLOCK = 64  # tokens


class Losses(NamedTuple):
    """The loss of every scored position of a split, filled in as it is evaluated; or of every token."""

    nll: np.ndarray  # float32[R, K] or float[N], nats; 0 where nothing is scored
    weights: np.ndarray  # float32[R, K] or [N]

    def add(self, index: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
        """Keep what was found of the rows `index`, int32[B]; those beyond the split are padding."""
        real = index < len(self.nll)
        nll, weights = (np.asarray(part)[real] for part in found)
        self.nll[index[real]], self.weights[index[real]] = np.where(weights > 0, nll, 0), weights


def empty(rows: Rows, positions: int) -> Losses:
    """Return room for the losses of `rows` of `positions` scored positions each."""
    return Losses(*(np.zeros((rows.count, positions), np.float32) for _ in range(2)))


def by_token(losses: Losses, rows: Rows) -> Losses:
    """Return float32[N] of each token of the corpora, one after the other, of an objective that scores the next token.

    The first token of a corpus is not predicted: its weight is 0.
    """
    found, done = [], 0
    for corpus, count in zip(rows.corpora, rows.counts, strict=True):
        part = [values[done : done + count].reshape(-1)[: len(corpus.tokens) - 1] for values in losses]
        found.append([np.concatenate([[0.0], values]).astype(np.float32) for values in part])
        done += count
    return Losses(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def scores(tokens: Losses, rows: Rows, unigram: np.ndarray | None = None) -> dict[str, Any]:
    """Return how good a model is on a split, as `evaluate.scores` says it, from the losses of every token, float[N].

    They are infinite where the model gives a token no probability, as maximum likelihood does.

    Args:
        tokens: As `by_token` returns them.
        rows: Of the split.
        unigram: float64[V], see `evaluate.unigram_nll`; None: no baseline.
    """
    count = float(tokens.weights.sum())
    total = float(np.sum(tokens.nll * tokens.weights, dtype=np.float64))
    loss = total / max(count, 1e-8)
    found = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "scored": int(count)}
    spelled = np.concatenate([corpus.bytes for corpus in rows.corpora])[tokens.weights > 0].sum(dtype=np.int64)
    if spelled:
        found["bits_per_byte"] = total / math.log(2) / int(spelled)
    if unigram is not None:
        read = np.concatenate([corpus.tokens for corpus in rows.corpora])
        found["unigram_loss"] = float(np.sum(unigram[read] * tokens.weights) / max(count, 1e-8))
    return found


def by_row(losses: Losses, kind: str = "row") -> dict[str, Any] | None:
    """Return the sums over rows, for objectives that corrupt these or whose examples they are; None of more than MOST.

    Returns:
        `kind`; `nll` in nats and `weight` in scored tokens, lists of the same length.
    """
    count, positions = losses.nll.shape
    flat = Losses(losses.nll.ravel(), losses.weights.ravel())
    return _summed(kind, flat, np.repeat(np.arange(count), positions))


def by_document(tokens: Losses, rows: Rows) -> dict[str, Any] | None:
    """Return the sums over documents of the losses of every token, float[N], or over its blocks; as `by_row`."""
    begins = np.concatenate([corpus.starts for corpus in rows.corpora]).astype(np.int64)
    begins[:1] = 1
    if begins.sum() < FEW:
        return _summed("block", tokens, np.arange(len(begins)) // BLOCK)
    return _summed("document", tokens, np.cumsum(begins) - 1)


def by_example(right: np.ndarray) -> dict[str, Any] | None:
    """Return what `by_row` does of bool[N], whether each example was told right, as `right` in place of `nll`."""
    found = {"kind": "example", "right": right.astype(int).tolist(), "weight": [1] * len(right)}
    return found if len(right) <= MOST else None


def _summed(kind: str, losses: Losses, unit: np.ndarray) -> dict[str, Any] | None:
    nll = np.bincount(unit, weights=losses.nll.astype(np.float64) * losses.weights)
    weight = np.bincount(unit, weights=losses.weights)
    return {"kind": kind, "nll": nll.round(4).tolist(), "weight": weight.tolist()} if len(nll) <= MOST else None
