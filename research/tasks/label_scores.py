"""Scores of classification: of one label, of several, and of a number for each example."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.report.calibration import calibration
from research.report.intervals import bootstrap, interval, resampled_counts, resampled_sums
from research.tasks.counts import Counts, by_label
from research.types import UserError

THRESHOLD = 0.5
"""Probability from which one of several labels is predicted."""


def single_label(gold: np.ndarray, probabilities: np.ndarray, names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Return the scores of the likeliest label of each example, with 95 % bootstrap intervals over examples.

    Macro averages are over the labels that are gold or predicted anywhere, as scikit-learn's; ece is the expected
    calibration error (Guo et al., 2017, section 2), majority the accuracy of always answering the most frequent label.
    These two have no interval: ece is a sum of absolute gaps, which the noise of a resample widens, so that percentiles
    may lie above the score itself; and a majority is of the gold labels alone.

    Args:
        gold: int[N], ids of labels.
        probabilities: float[N, n].
        names: Of the n labels, in the order of their ids.
        seed: Of the resamples.

    Returns:
        examples, accuracy, macro_f1, micro_f1, matthews, ece, majority; labels: name -> precision, recall, f1, support;
        confusion: n lists of n counts, a row a gold label; and `<score>_interval`: [low, high], also of each label's.

    Raises:
        UserError: There is no example, or a probability is not a number: the run diverged.
        ValueError: Shapes or ids do not fit one another.
    """
    from sklearn import metrics

    gold, probabilities = _checked(gold, probabilities, names, gold_dimensions=1)
    if gold.min() < 0 or gold.max() >= len(names):
        raise ValueError(f"gold labels lie between {gold.min()} and {gold.max()}, but there are {len(names)} names")
    predicted = np.argmax(probabilities, axis=1)
    confusion = metrics.confusion_matrix(gold, predicted, labels=np.arange(len(names)))
    counts = Counts(np.diagonal(confusion), confusion.sum(axis=0), confusion.sum(axis=1))
    resampled = _resampled_confusion(confusion, seed)
    return {
        "examples": len(gold),
        "accuracy": float(metrics.accuracy_score(gold, predicted)),
        "accuracy_interval": interval(resampled.micro.recall[:, 0]),
        "macro_f1": float(metrics.f1_score(gold, predicted, average="macro", zero_division=0)),
        "macro_f1_interval": interval(resampled.macro(resampled.f1)),
        "micro_f1": float(metrics.f1_score(gold, predicted, average="micro", zero_division=0)),
        "micro_f1_interval": interval(resampled.micro.f1[:, 0]),
        "matthews": float(matthews(counts)),
        "matthews_interval": interval(matthews(resampled)),
        "ece": calibration(probabilities.max(axis=1), predicted == gold).error,
        "majority": float(np.max(counts.gold) / len(gold)),
        "labels": by_label(names, counts, resampled),
        "confusion": confusion.tolist(),
    }


def multi_label(gold: np.ndarray, probabilities: np.ndarray, names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Return the scores of the labels of probability 0.5 and more, with 95 % bootstrap intervals over examples.

    Subset accuracy is the share of examples with all labels right, majority that of always answering the most frequent
    set of labels. The calibration error is over every label of every example, each a choice between yes and no; why it
    has no interval, see `single_label`.

    Args:
        gold: bool[N, n].
        probabilities: float[N, n], a sigmoid each.
        names: Of the n labels, in the order of their ids.
        seed: Of the resamples.

    Returns:
        examples, subset_accuracy, macro_f1, micro_f1, ece, majority; labels: name -> precision, recall, f1, support;
        and `<score>_interval`: [low, high], also of each label's.

    Raises:
        UserError: There is no example, or a probability is not a number: the run diverged.
        ValueError: Shapes do not fit one another.
    """
    from sklearn import metrics

    gold, probabilities = _checked(gold, probabilities, names, gold_dimensions=2)
    gold, predicted = gold.astype(bool), probabilities >= THRESHOLD
    counts = Counts(*(part.sum(axis=0) for part in (gold & predicted, predicted, gold)))
    every = np.all(gold == predicted, axis=1, keepdims=True)
    sums = resampled_sums(np.hstack([gold & predicted, predicted, gold, every]), seed=seed)
    resampled = Counts.split(sums[:, :-1])
    return {
        "examples": len(gold),
        "subset_accuracy": float(metrics.accuracy_score(gold, predicted)),
        "subset_accuracy_interval": interval(sums[:, -1] / len(gold)),
        "macro_f1": float(counts.macro(counts.f1)),
        "macro_f1_interval": interval(resampled.macro(resampled.f1)),
        "micro_f1": float(counts.micro.f1[0]),
        "micro_f1_interval": interval(resampled.micro.f1[:, 0]),
        "ece": calibration(np.maximum(probabilities, 1 - probabilities).ravel(), (gold == predicted).ravel()).error,
        "majority": float(np.unique(gold, axis=0, return_counts=True)[1].max() / len(gold)),
        "labels": by_label(names, counts, resampled),
    }


def regression(gold: np.ndarray, predicted: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return correlations and errors of predicted numbers, with 95 % bootstrap intervals over examples.

    A correlation with a constant is undefined: None, and so is its interval.

    Args:
        gold: float[N].
        predicted: float[N].
        seed: Of the resamples.

    Returns:
        examples, pearson, spearman, mean_squared_error, mean_absolute_error, and `<score>_interval`: [low, high].

    Raises:
        UserError: There is no example, or a prediction is not a number: the run diverged.
        ValueError: Shapes do not fit one another.
    """
    from scipy import stats

    gold, predicted = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    if gold.ndim != 1 or gold.shape != predicted.shape:
        raise ValueError(f"gold numbers {gold.shape} and predictions {predicted.shape} are not one each for an example")
    _some_and_finite(gold)
    _some_and_finite(predicted)
    errors = np.stack([(predicted - gold) ** 2, np.abs(predicted - gold)])
    standard, ranked = [_standard(gold), _standard(predicted)], [_ranked(gold), _ranked(predicted)]

    def statistic(drawn: np.ndarray) -> np.ndarray:
        drawn = drawn.astype(np.float64)
        # Ranks are taken anew in every resample: those of the whole would be too certain.
        ranks = [_resampled_ranks(drawn, *each) for each in ranked]
        correlations = _correlation(drawn, *standard), _correlation(drawn, *ranks)
        return np.array([*correlations, *(_dot(errors, drawn) / len(gold))])

    constant = np.ptp(gold) == 0 or np.ptp(predicted) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant ones: a wide interval says it better
        correlations = {
            "pearson": None if constant else float(stats.pearsonr(gold, predicted).statistic),
            "spearman": None if constant else float(stats.spearmanr(gold, predicted).statistic),
        }
    squared, absolute = (float(mean) for mean in errors.mean(axis=1))
    scores = {**correlations, "mean_squared_error": squared, "mean_absolute_error": absolute}
    ends = np.stack(bootstrap(statistic, len(gold), seed=seed), axis=1)
    result: dict[str, Any] = {"examples": len(gold)}
    for (name, score), (low, high) in zip(scores.items(), ends, strict=True):
        undefined = score is None or np.isnan(low)
        result |= {name: score, f"{name}_interval": None if undefined else [float(low), float(high)]}
    return result


def worst(gold: np.ndarray, probabilities: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of the at most `n` errors of highest confidence, the surest first, int64[<= n].

    Args:
        gold: int[N], ids of labels; or bool[N, labels] where there may be several.
        probabilities: float[N, labels].
        n: Most errors that are wanted.
    """
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, np.float64)
    if gold.ndim == 1:
        wrong = np.argmax(probabilities, axis=1) != gold
        confidence = probabilities.max(axis=1)
    else:
        wrong_labels = (probabilities >= THRESHOLD) != gold.astype(bool)
        wrong = wrong_labels.any(axis=1)
        confidence = np.max(np.maximum(probabilities, 1 - probabilities), axis=1, where=wrong_labels, initial=0.0)
    errors = np.flatnonzero(wrong)
    return errors[np.argsort(-confidence[errors], kind="stable")][:n]


def matthews(counts: Counts) -> np.ndarray:
    """Return the Matthews correlation of exactly one label each, float64[...]; 0 where it is undefined.

    Gorodkin (2004), equation 8, of the counts alone: right, predicted and gold, number[..., n] each.
    """
    right, predicted, gold = (np.asarray(part, np.float64) for part in counts)
    total = np.sum(gold, axis=-1)
    covariance = np.sum(right, axis=-1) * total - np.sum(predicted * gold, axis=-1)
    spread = (total**2 - np.sum(predicted**2, axis=-1)) * (total**2 - np.sum(gold**2, axis=-1))
    return np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)


def _resampled_confusion(confusion: np.ndarray, seed: int) -> Counts:
    """Return the counts of resamples of the examples in a confusion matrix, int[n, n]."""
    cells, drawn_matrix, sums = np.nonzero(confusion), np.zeros_like(confusion), []
    for drawn in resampled_counts(confusion[cells], seed=seed):
        drawn_matrix[cells] = drawn
        sums.append(np.concatenate([np.diagonal(drawn_matrix), drawn_matrix.sum(axis=0), drawn_matrix.sum(axis=1)]))
    return Counts.split(np.stack(sums))


def _standard(values: np.ndarray) -> np.ndarray:
    """Return float[N] moved and scaled to lie around 0, at most 1 from it, so that its sums of squares are exact."""
    values = values - np.mean(values)
    return values / max(np.max(np.abs(values)), np.finfo(np.float64).tiny)


def _correlation(drawn: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of a resample of standard values; nan where one side is constant."""
    n = np.sum(drawn)
    weighted_a, weighted_b = drawn * a, drawn * b
    mean_a, mean_b = np.sum(weighted_a) / n, np.sum(weighted_b) / n
    spread_a, spread_b = _dot(weighted_a, a) / n - mean_a**2, _dot(weighted_b, b) / n - mean_b**2
    if min(spread_a, spread_b) < 1e-14:  # what is constant in a resample keeps a spread of rounding errors
        return np.nan
    return float((_dot(weighted_a, b) / n - mean_a * mean_b) / np.sqrt(spread_a * spread_b))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums of float[..., N] times float[N]; `@` starts threads, which wait long on a busy machine."""
    return np.einsum("...i,i->...", a, b)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the place of each value among the distinct ones, int64[N], and how many these are."""
    distinct, places = np.unique(values, return_inverse=True)
    return places, len(distinct)


def _resampled_ranks(drawn: np.ndarray, places: np.ndarray, distinct: int) -> np.ndarray:
    """Return the rank of each example in a resample, from -1/2 to 1/2, float64[N]; ties share their mean rank."""
    sizes = np.bincount(places, weights=drawn, minlength=distinct)
    return ((np.cumsum(sizes) - sizes / 2) / np.sum(drawn) - 0.5)[places]


def _checked(
    gold: np.ndarray, probabilities: np.ndarray, names: Sequence[str], gold_dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, np.float64)
    expected = (len(gold), len(names))
    if probabilities.shape != expected or gold.shape != expected[:gold_dimensions]:
        raise ValueError(f"gold {gold.shape}, probabilities {probabilities.shape} and {len(names)} names do not fit")
    _some_and_finite(probabilities)
    return gold, probabilities


def _some_and_finite(values: np.ndarray) -> None:
    if not len(values):
        raise UserError("there are no examples to score: name a split that has some")
    if not np.isfinite(values).all():
        at = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise UserError(f"the score of example {at} is not a number: the model diverged, use an earlier checkpoint")
