"""Scores of labels and numbers are scikit-learn's and scipy's, also in every resample."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from research.report import intervals
from research.report.calibration import calibration
from research.tasks import label_scores
from research.tasks.counts import Counts
from research.tasks.label_scores import matthews, multi_label, regression, single_label, worst
from research.types import UserError

NAMES = ["bad", "fair", "good", "odd"]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def drawn(seed, n=200, labels=4):
    """Gold labels of unequal frequency, and probabilities that are right more often than not."""
    generator = np.random.default_rng(seed)
    gold = generator.choice(labels, size=n, p=np.arange(1, labels + 1) / np.arange(1, labels + 1).sum())
    return gold, softmax(generator.normal(size=(n, labels)) + 1.5 * np.eye(labels)[gold])


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(2, 4))
def test_single_label_is_scikit_learn(seed, n, labels):
    gold, probabilities = drawn(seed, n, labels)
    predicted = probabilities.argmax(1)
    scores = single_label(gold, probabilities, NAMES[:labels])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        gold, predicted, labels=range(labels), zero_division=0
    )
    for i, name in enumerate(NAMES[:labels]):
        found = scores["labels"][name]
        np.testing.assert_allclose([found[k] for k in ("precision", "recall", "f1")], [precision[i], recall[i], f1[i]])
        assert found["support"] == support[i]
    assert scores["accuracy"] == np.mean(predicted == gold) == pytest.approx(scores["micro_f1"])
    present = sorted({*gold, *predicted})
    assert scores["macro_f1"] == pytest.approx(np.mean(f1[present]))
    assert scores["matthews"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted))
    confusion = [[sum(1 for g, p in zip(gold, predicted, strict=True) if (g, p) == (i, j)) for j in range(labels)]
                 for i in range(labels)]  # fmt: skip
    assert scores["confusion"] == confusion
    assert scores["majority"] == max(list(gold).count(i) for i in range(labels)) / n
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    for name in ("accuracy", "macro_f1", "micro_f1", "matthews"):
        low, high = scores[f"{name}_interval"]
        assert low <= high and -1 <= low and high <= 1


def test_intervals_are_those_of_resampling_examples_one_by_one():
    gold, probabilities = drawn(3, 300)
    predicted = probabilities.argmax(1)
    scores = single_label(gold, probabilities, NAMES)
    generator = np.random.default_rng(9)
    slow = {"accuracy": [], "macro_f1": [], "matthews": [], "precision": [], "recall": [], "f1": []}
    for _ in range(200):
        at = generator.integers(0, 300, 300)
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(gold[at], predicted[at], labels=range(4))
        slow["accuracy"].append(np.mean(gold[at] == predicted[at]))
        slow["macro_f1"].append(np.mean(f1))
        slow["matthews"].append(metrics.matthews_corrcoef(gold[at], predicted[at]))
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            slow[name].append(values[2])
    for name, values in slow.items():
        found = (scores if name in scores else scores["labels"]["good"])[f"{name}_interval"]
        np.testing.assert_allclose(found, np.quantile(values, [0.025, 0.975]), atol=0.025)


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_matthews_of_counts_is_scikit_learns(pairs):
    gold, predicted = np.array(pairs).T
    confusion = metrics.confusion_matrix(gold, predicted, labels=range(4))
    counts = Counts(np.diagonal(confusion), confusion.sum(0), confusion.sum(1))
    assert matthews(counts) == pytest.approx(metrics.matthews_corrcoef(gold, predicted))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 4))
def test_multi_label_is_scikit_learn(seed, n, labels):
    generator = np.random.default_rng(seed)
    gold = generator.random((n, labels)) < 0.3
    probabilities = np.clip(gold * 0.4 + generator.random((n, labels)) * 0.6, 0, 1)
    predicted = probabilities >= 0.5
    scores = multi_label(gold, probabilities, NAMES[:labels])
    assert scores["subset_accuracy"] == pytest.approx(np.mean((gold == predicted).all(1)))
    present = [i for i in range(labels) if gold[:, i].any() or predicted[:, i].any()]
    slow = [metrics.f1_score(gold[:, i], predicted[:, i], zero_division=0) for i in range(labels)]
    assert scores["macro_f1"] == pytest.approx(np.mean([slow[i] for i in present]) if present else 0)
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(gold.ravel(), predicted.ravel(), zero_division=0))
    assert [scores["labels"][name]["f1"] for name in NAMES[:labels]] == pytest.approx(slow)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    low, high = scores["micro_f1_interval"]
    assert 0 <= low <= high <= 1


def test_multi_label_intervals_are_those_of_resampling_examples():
    generator = np.random.default_rng(0)
    gold = generator.random((300, 3)) < 0.4
    predicted = gold ^ (generator.random((300, 3)) < 0.2)
    scores = multi_label(gold, np.where(predicted, 0.9, 0.1), NAMES[:3])
    resampled = [generator.integers(0, 300, 300) for _ in range(150)]
    for name, score in {
        "subset_accuracy": metrics.accuracy_score,
        "macro_f1": lambda g, p: metrics.f1_score(g, p, average="macro"),
    }.items():
        expected = np.quantile([score(gold[i], predicted[i]) for i in resampled], [0.025, 0.975])
        np.testing.assert_allclose(scores[f"{name}_interval"], expected, atol=0.025)
    assert scores["ece"] == pytest.approx(0.9 - np.mean(gold == predicted))


def slow_ece(confidence, right, bins=15):
    """Guo et al. (2017), equation 3, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if inside:
            gap = abs(np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside]))
            total += len(inside) / len(confidence) * gap
    return total


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_error_is_that_of_the_paper(pairs):
    confidence, right = map(list, zip(*pairs, strict=True))
    found = calibration(confidence, right)
    assert found.error == pytest.approx(slow_ece(confidence, right), abs=1e-12)
    assert found.counts.sum() == len(pairs) and found.counts.shape == found.accuracy.shape == (15,)


def test_calibration_of_the_sure_the_honest_and_the_boastful():
    gold = np.array([0, 0, 0, 1])
    sure, honest = np.array([[1.0, 0]] * 3 + [[0, 1.0]]), np.array([[0.75, 0.25]] * 4)
    assert single_label(gold, sure, NAMES[:2])["ece"] == 0
    assert single_label(gold, honest, NAMES[:2])["ece"] == 0
    assert single_label(gold, np.array([[1.0, 0]] * 4), NAMES[:2])["ece"] == 0.25


def test_a_label_that_nobody_has_or_predicts_is_not_averaged():
    scores = single_label(np.array([0, 1, 1]), np.eye(3)[[0, 1, 0]], NAMES[:3])
    nothing = {name: 0 for name in ("precision", "recall", "f1", "support")}
    assert scores["labels"]["good"] == nothing | {f"{name}_interval": [0, 0] for name in ("precision", "recall", "f1")}
    assert scores["macro_f1"] == pytest.approx(2 / 3) and scores["majority"] == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(3, 40), st.booleans())
def test_regression_is_scipy(seed, n, ties):
    generator = np.random.default_rng(seed)
    gold = generator.normal(3, 1, n)
    predicted = gold + generator.normal(size=n)
    if ties:
        gold, predicted = np.round(gold), np.round(predicted)
    if np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return
    scores = regression(gold, predicted)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic)
    assert scores["mean_squared_error"] == pytest.approx(metrics.mean_squared_error(gold, predicted))
    assert scores["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(gold, predicted))
    for name in ("mean_squared_error", "mean_absolute_error"):
        low, high = scores[f"{name}_interval"]
        assert low <= scores[name] * (1 + 1e-9) + 1e-9 and scores[name] <= high * (1 + 1e-9) + 1e-9
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


@pytest.mark.parametrize("decimals", [0, 6])
def test_regression_in_a_resample_is_scipy_on_its_examples(decimals):
    generator = np.random.default_rng(1)
    gold = np.round(generator.normal(size=30), decimals)
    predicted = np.round(gold + generator.normal(size=30), decimals)
    standard = [label_scores._standard(values) for values in (gold, predicted)]
    ranked = [label_scores._ranked(values) for values in (gold, predicted)]
    for drawn_ in intervals.resamples(30, 20):
        at = np.repeat(np.arange(30), drawn_)
        ranks = [label_scores._resampled_ranks(drawn_, *each) for each in ranked]
        np.testing.assert_allclose(ranks[0][at], (stats.rankdata(gold[at]) - 0.5) / 30 - 0.5, atol=1e-12)
        found = label_scores._correlation(drawn_, *ranks), label_scores._correlation(drawn_, *standard)
        expected = stats.spearmanr(gold[at], predicted[at]).statistic, stats.pearsonr(gold[at], predicted[at]).statistic
        np.testing.assert_allclose(found, expected)


@pytest.mark.filterwarnings("error")
def test_correlations_with_constants_are_undefined_without_a_warning():
    scores = regression(np.array([1.0, 2, 3]), np.array([0.1, 0.1, 0.1]))
    assert scores["pearson"] is scores["spearman"] is scores["pearson_interval"] is scores["spearman_interval"] is None
    assert scores["mean_absolute_error"] == pytest.approx(1.9)
    assert regression(np.array([1.0]), np.array([2.0]))["pearson"] is None
    near = regression(np.array([1.0, 2, 3]), 0.1 + 1e-15 * np.arange(3))
    assert near["mean_absolute_error"] == pytest.approx(1.9)
    scarce = regression(np.array([1e6, 1e6, 1e6 + 0.1]), np.array([0.3, 0.3, 0.9]))  # many a resample is constant
    assert scarce["pearson_interval"] == pytest.approx([1, 1])


def test_worst_are_the_surest_errors():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert worst(np.array([1, 1, 1, 0]), probabilities, 10).tolist() == [0, 3, 2]
    assert worst(np.array([1, 1, 1, 0]), probabilities, 1).tolist() == [0]
    assert worst(np.array([0, 1, 0, 1]), probabilities, 5).tolist() == []
    several = np.array([[True, False], [False, False], [True, True], [False, True]])
    assert worst(several, probabilities, 10).tolist() == [1, 2]  # sure of 0.8, and unsure of 0.4


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="no examples"):
        single_label(np.array([], int), np.zeros((0, 2)), NAMES[:2])
    with pytest.raises(UserError, match="example 1 is not a number"):
        single_label(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), NAMES[:2])
    with pytest.raises(UserError, match="example 0 is not a number"):
        regression(np.array([0.0, 1]), np.array([np.inf, 1]))
    for gold, probabilities in [(np.array([0]), np.eye(2)), (np.array([0, 1]), np.eye(3)), (np.eye(2), np.eye(2))]:
        with pytest.raises(ValueError, match="do not fit"):
            single_label(gold, probabilities, NAMES[:2])
    with pytest.raises(ValueError, match="2 names"):
        single_label(np.array([0, 2]), np.eye(2), NAMES[:2])
    with pytest.raises(ValueError, match="one each"):
        regression(np.zeros(2), np.zeros(3))


def test_many_examples_are_scored_in_seconds():
    gold, probabilities = drawn(0, 100_000, 4)
    start = time.perf_counter()
    single_label(gold, probabilities, NAMES)
    assert time.perf_counter() - start < 5  # 0.3 s on an idle core
