"""Scores of generated texts against one or more references each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from research.report.intervals import interval, resampled_sums
from research.types import UserError

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenised: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Return the scores of generated texts, with 95 % bootstrap intervals over examples.

    BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are sacrebleu's, from 0 to 100, with the signature that names
    their settings; all references of an example count together. ROUGE (Lin, 2004) is the F-measure of rouge_score with
    stemming, from 0 to 1 and for English alone: the mean over an example's references, and as `..._best` that of the
    best one, which differs where there are several; rougeLsum takes lines for sentences.

    Args:
        predictions: A text for each example.
        references: One or more texts for each example.
        tokenised: Texts are words and punctuation parted by spaces: add their BLEU as they are, `tokenised_bleu`.
        seed: Of the resamples.

    Returns:
        examples; bleu, chrf and where asked for tokenised_bleu, each with `<score>_signature`; rouge1, rouge2, rougeL,
        rougeLsum, and each with `_best`; exact_match, the share that is a reference but for spaces around it;
        length_ratio, the mean of words over words of the references; distinct_1, distinct_2 (Li et al., 2016, section
        5.2: distinct n-grams of words over all of them, in all predictions); and `<score>_interval`: [low, high], but
        for distinct n-grams, since a resample repeats texts.

    Raises:
        UserError: There is no example, or one has no reference, or there are more or fewer predictions.
    """
    from sacrebleu.metrics import BLEU, CHRF

    _check(predictions, references)
    result: dict[str, Any] = {"examples": len(predictions)}
    result |= _corpus_score("bleu", BLEU(force=tokenised), predictions, references, seed)
    if tokenised:
        result |= _corpus_score("tokenised_bleu", BLEU(tokenize="none", force=True), predictions, references, seed)
    result |= _corpus_score("chrf", CHRF(), predictions, references, seed)
    examples = rouge(predictions, references)
    pairs = list(zip(predictions, references, strict=True))
    examples["exact_match"] = np.array([_exact(*pair) for pair in pairs], np.float64)
    examples["length_ratio"] = np.array([_length_ratio(*pair) for pair in pairs])
    sums = resampled_sums(np.stack(list(examples.values()), axis=1), seed=seed)
    for (name, values), total in zip(examples.items(), sums.T, strict=True):
        result |= {name: float(np.mean(values)), f"{name}_interval": interval(total / len(predictions))}
    return result | {f"distinct_{n}": distinct(predictions, n) for n in (1, 2)}


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Return ROUGE's F-measures of each example, float64[N]: the mean over its references and, as `_best`, the most."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE, use_stemmer=True)
    found: dict[str, list[float]] = {f"{name}{suffix}": [] for name in ROUGE for suffix in ("", "_best")}
    for prediction, texts in zip(predictions, references, strict=True):
        each = [scorer.score(text, prediction) for text in texts]
        for name in ROUGE:
            values = [score[name].fmeasure for score in each]
            found[name].append(float(np.mean(values)))
            found[f"{name}_best"].append(max(values))
    return {name: np.array(values, np.float64) for name, values in found.items()}


def distinct(predictions: Sequence[str], n: int) -> float:
    """Return the distinct n-grams of words over all n-grams of all texts, 0 where there is none (Li et al., 2016)."""
    split = [text.split() for text in predictions]
    ngrams = [tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _corpus_score(
    name: str, metric: Metric, predictions: Sequence[str], references: Sequence[Sequence[str]], seed: int
) -> dict[str, Any]:
    """Return a score of sacrebleu, its interval and its signature."""
    # What corpus_score does, cut where it has counted: a score is a function of sums of each text's counts alone, so
    # resamples cost no second tokenizing. These methods are private to sacrebleu; a test holds them to corpus_score.
    padded = [list(texts) for texts in itertools.zip_longest(*references)]
    counts = np.array(metric._extract_corpus_statistics(list(predictions), padded))
    sums = resampled_sums(counts, seed=seed)
    resampled = [metric._compute_score_from_stats(each).score for each in sums.tolist()]
    return {
        name: metric._compute_score_from_stats(counts.sum(axis=0).tolist()).score,
        f"{name}_interval": interval(np.array(resampled)),
        f"{name}_signature": str(metric.get_signature()),
    }


def _exact(prediction: str, references: Sequence[str]) -> bool:
    return prediction.strip() in {text.strip() for text in references}


def _length_ratio(prediction: str, references: Sequence[str]) -> float:
    """Return the words of `prediction` over those of its references on average; an empty reference counts as a word."""
    return len(prediction.split()) / float(np.mean([max(len(text.split()), 1) for text in references]))


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise UserError(f"there are {len(predictions)} predictions for {len(references)} examples: give one each")
    if not predictions:
        raise UserError("there are no examples to score: name a split that has some")
    bare = next((i for i, texts in enumerate(references) if isinstance(texts, str) or not texts), None)
    if bare is not None:
        raise UserError(f"example {bare} has no list of references: give each example one or more texts")
