"""How good a fine-tuned model is on a split: its scores, every answer, and the worst of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from research.generate.settings import Decoding
from research.objectives.tagging import Tagging
from research.tasks import judge, text_scores
from research.tasks.rows import Example
from research.train.predict import Predictor, write
from research.train.restore import Evaluated, opened_run

WORST = 100  # errors that are shown
TEXTS = 16  # that are made at the same time


class Judged(NamedTuple):
    """A split's examples, what the model says of each, and how good that is."""

    scores: dict[str, Any]
    told: list[dict[str, Any]]  # each example with what was predicted
    worst: list[dict[str, Any]]  # of these, the worst first
    probabilities: np.ndarray | None  # float32[N, n] and gold int64[N], where there is one label of several
    gold: np.ndarray | None


def judged(found: Evaluated, decoding: Decoding = Decoding(), limit: int = 0, tokenised: bool = False) -> Judged:
    """Return what a run's checkpoint, which was evaluated, says of the examples of the split.

    Texts are generated, never taken from the targets that the loss is computed on; the worst have the least ROUGE-L.

    Args:
        found: Of a run of a task.
        decoding: How texts are made.
        limit: Examples that texts are made for, spread over all; 0: all.
        tokenised: Texts are tokenised, so BLEU of these is scored too.
    """
    run, split = found.loaded.run, found.scores["split"]
    examples = found.prepared.table(split).examples
    if run.arch.head != "vocabulary":
        return _of_labels(run.objective, examples, found.answers)
    opened = opened_run(found.loaded)
    predictor = Predictor(opened.model, opened.params, run.objective, opened.reader, TEXTS, opened.step, opened.files)
    count = min(limit or len(examples), len(examples))
    chosen = [examples[n * len(examples) // count] for n in range(count)]
    made = write(predictor, [opened.reader.record(run.objective, each)[0] for each in chosen], decoding)
    texts = [answers[0][0] for answers in made]
    references = [each["references"] for each in chosen]
    told = [{**each, "predicted": text} for each, text in zip(chosen, texts, strict=True)]
    order = np.argsort(text_scores.rouge(texts, references)["rougeL"], kind="stable")
    return Judged(text_scores.scores(texts, references, tokenised), told, [told[i] for i in order[:WORST]], None, None)


def _of_labels(objective: Any, examples: Sequence[Example], answers: judge.Answers) -> Judged:
    numbers = sorted(answers)
    if isinstance(objective, Tagging):
        told = [{**examples[n], "predicted": answers[n]} for n in numbers]
    else:
        told = [{**examples[n], **judge.answer(objective, answers[n])} for n in numbers]
    single = getattr(objective, "problem", "") == "single_label"
    return Judged(
        judge.scores(objective, examples, answers),
        told,
        judge.worst(objective, examples, answers, WORST),
        np.stack([answers[n] for n in numbers]) if single else None,
        judge.golden(objective, [examples[n] for n in numbers]) if single else None,
    )
