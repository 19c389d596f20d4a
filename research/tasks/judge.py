"""A model's answers beside the labels that the data have: the scores of a task, and its worst errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.objectives.classification import Classification
from research.objectives.tagging import Tagging
from research.tasks import classification, entities, label_scores, tagging
from research.tasks.rows import Example, Table
from research.types import UserError

Answers = Mapping[int, Any]
"""By number of the example: float32[N] probabilities, a number, or a list of tags."""


def gathering(objective: Classification | Tagging, table: Table) -> classification.Answers | tagging.Tags:
    """Return what gathers a model's answers to the examples of `table`, batch by batch in any order."""
    gather = tagging.Tags if isinstance(objective, Tagging) else classification.Answers
    return gather(objective, table)


def scores(objective: Classification | Tagging, examples: Sequence[Example], answers: Answers) -> dict[str, Any]:
    """Return the scores of the examples that have `answers`; see `label_scores` and `entities` for what they are.

    Where a part of the rows was read, documents of which a window is missing have no answer: `documents` counts those
    that have one.

    Raises:
        UserError: There is no answer, or one is not a number: the run diverged.
    """
    gold = [examples[number] for number in sorted(answers)]
    given = [answers[number] for number in sorted(answers)]
    if isinstance(objective, Tagging):
        if len(examples) and not given:
            raise UserError("no document has all its windows among the rows that are scored: raise evaluate_rows")
        return entities.scores([each["tags"] for each in gold], given, objective.scheme)
    labels = golden(objective, gold)
    if objective.problem == "regression":
        return label_scores.regression(labels, np.array(given))
    score = label_scores.multi_label if objective.problem == "multi_label" else label_scores.single_label
    return score(labels, np.stack(given), objective.labels)


def promised(objective: Classification | Tagging) -> dict[str, Any]:
    """Return the scores that `scores` would have, with the values that one made-up example gives."""
    if isinstance(objective, Tagging):
        return scores(objective, [{"tags": ["O"]}], {0: ["O"]})
    if objective.problem == "regression":
        return scores(objective, [{"label": 0.0}], {0: 0.0})
    label = objective.labels[0]
    example = {"label": [label] if objective.problem == "multi_label" else label}
    return scores(objective, [example], {0: np.full(len(objective.labels), 1 / len(objective.labels))})


def golden(objective: Classification, examples: Sequence[Example]) -> np.ndarray:
    """Return what examples are labelled with: int64[N] ids, bool[N, n] of several labels, float64[N] numbers."""
    if objective.problem == "regression":
        return np.array([each["label"] for each in examples], np.float64)
    ids = {name: i for i, name in enumerate(objective.labels)}
    if objective.problem == "single_label":
        return np.array([ids[each["label"]] for each in examples], np.int64)
    gold = np.zeros((len(examples), len(ids)), bool)
    for row, each in enumerate(examples):
        gold[row, [ids[name] for name in each["label"]]] = True
    return gold


def right(objective: Classification | Tagging, examples: Sequence[Example], answers: Answers) -> np.ndarray | None:
    """Return whether each example that has an answer was told right, bool[N]; None but of one label of several."""
    if isinstance(objective, Tagging) or objective.problem != "single_label":
        return None
    gold = golden(objective, [examples[number] for number in sorted(answers)])
    return np.array([np.argmax(answers[number]) for number in sorted(answers)]) == gold


def worst(objective: Classification | Tagging, examples: Sequence[Example], answers: Answers, most: int) -> list[dict]:
    """Return the `most` examples that were told most wrongly, the worst first, with what was answered.

    Of labels, errors by the confidence in them; of numbers, by their distance; of tags, documents by their wrong words.
    """
    numbers = sorted(answers)
    gold = [examples[number] for number in numbers]
    if isinstance(objective, Tagging):
        pairs = [zip(each["tags"], answers[n], strict=True) for n, each in zip(numbers, gold, strict=True)]
        wrong = [sum(a != b for a, b in tags) for tags in pairs]
        order = [i for i in np.argsort([-count for count in wrong], kind="stable") if wrong[i]]
        return [{**gold[i], "predicted": answers[numbers[i]]} for i in order[:most]]
    labels = golden(objective, gold)
    given = np.array([answers[number] for number in numbers])
    if objective.problem == "regression":
        order = np.argsort(-np.abs(labels - given), kind="stable")[:most]
        return [{**gold[i], "predicted": float(given[i])} for i in order]
    order = label_scores.worst(labels, given, most)
    return [{**gold[i], **answer(objective, given[i])} for i in order]


def answer(objective: Classification, given: np.ndarray | float) -> dict[str, Any]:
    """Return an answer in words: {"predicted", "probabilities"}, or {"predicted"} alone where it is a number."""
    if objective.problem == "regression":
        return {"predicted": float(given)}
    probabilities = dict(zip(objective.labels, map(float, given), strict=True))
    if objective.problem == "multi_label":
        chosen: str | list[str] = [name for name, p in probabilities.items() if p >= label_scores.THRESHOLD]
    else:
        chosen = max(probabilities, key=probabilities.__getitem__)
    return {"predicted": chosen, "probabilities": {name: round(p, 6) for name, p in probabilities.items()}}
