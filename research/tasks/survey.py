"""What records have before any is encoded: which column holds what, and which labels there are."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any, NamedTuple

from research.data.cache import cached
from research.data.cache import fingerprint as digest
from research.data.packing import Progress
from research.data.records import Row, fingerprint, records
from research.data.sources import Source
from research.objectives.classification import Classification
from research.tasks import TASKS
from research.types import Objective, Split, UserError

FORMAT = 4  # of the folder; a new number makes every cached one unfound
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
AT_ONCE = 2048  # records read or encoded at once: the tokenizer's threads have enough to do, and memory stays small

Tally = dict[str, int]
"""How many records have each label."""


class Survey(NamedTuple):
    """What the records of a source have, split by split."""

    objective: Objective  # its columns and labels filled in
    counts: dict[Split, Tally]  # of every split, empty where there is none or its labels cannot be read
    untold: dict[Split, int]  # records without a label, of the splits whose labels were read


class _Labels(NamedTuple):
    """What the labels of a split are."""

    names: Tally
    untold: int  # records that have none
    lengths: set[int]  # see `classification.multi_hot`


def surveyed(
    objective: Objective,
    source: Source,
    splits: tuple[Split, ...],
    progress: Progress,
    scored: tuple[Split, ...] | None = None,
) -> Survey:
    """Return the objective with its columns and labels filled in, and which labels there are in each split.

    All splits are read, so that labels are the same whichever are asked for; those that nobody asks for may be broken.

    Args:
        scored: as `prepare` has it.

    Raises:
        UserError: a column is missing or a label wrong, there are no labels, or one alone to train on.
    """
    found: dict[Split, str] = {}
    for split in SPLITS:
        try:
            found[split] = fingerprint(source, split)
        except UserError:  # there is no such split; what is wrong with a split that there is shows when it is read
            continue

    def build(folder: pathlib.Path) -> None:
        task = TASKS[type(objective)]
        named = _named(task, objective, source, tuple(found), splits, scored is not None)
        labels = {}
        for split in found if task.has_labels(objective) else ():
            try:
                labels[split] = _labels(task, named, _counted(records(source, split), progress))
            except UserError:
                if split in splits:
                    raise  # else nobody asked for this split: a test split often lacks the labels
        if task.has_labels(objective):
            _check_multi_hot(named, set().union(*(each.lengths for each in labels.values())), source)
            if not named.labels:
                names = task.ordered(itertools.chain.from_iterable(each.names for each in labels.values()))
                named = dataclasses.replace(named, labels=names)
            _check_labels(named, labels.get("train") if scored is None else None, source)
        counts = {split: labels[split].names if split in labels else {} for split in SPLITS}
        untold = {split: each.untold for split, each in labels.items()}
        values = {"objective": asdict(named), "counts": counts, "untold": untold}
        (folder / "found.json").write_text(json.dumps(values, ensure_ascii=True) + "\n", encoding="utf-8")

    name = digest(FORMAT, type(objective).__name__, asdict(objective), found, sorted(splits), scored)
    result = json.loads((cached("columns", name, build) / "found.json").read_text(encoding="utf-8"))
    filled = {key: tuple(value) if isinstance(value, list) else value for key, value in result["objective"].items()}
    return Survey(type(objective)(**filled), result["counts"], result["untold"])


def _named(
    task: ModuleType,
    objective: Any,
    source: Source,
    found: tuple[Split, ...],
    splits: tuple[Split, ...],
    others: bool,
) -> Any:
    """Return the objective with its columns filled in from the first record of the splits that are there.

    Args:
        others: whether the data are others than the objective's own, and may call their columns otherwise.
    """
    split = next(split for split in found if split in splits or not others)
    first = next(iter(records(source, split)))
    named = task.named_columns(task.renamed(objective, first) if others else objective, first)
    if "references" in objective.columns and not objective.target and not named.references:
        # Training has no use for them: often the test split alone has some.
        for split in found:
            try:
                each = task.named_columns(objective, next(iter(records(source, split))))
            except UserError:
                continue
            if each.references and each.target == named.target:
                return dataclasses.replace(named, references=each.references)
    return named


def _labels(task: ModuleType, objective: Any, rows: Iterable[Row]) -> _Labels:
    names, untold, lengths = Counter[str](), 0, set()
    several = isinstance(objective, Classification) and objective.problem == "multi_label"
    for row in rows:
        example = task.example(objective, row)
        untold += task.untold(example)
        names.update(task.names(objective, example))
        if several and not task.untold(example):
            lengths.add(task.multi_hot(objective, row))
    return _Labels(dict(sorted(names.items())), untold, lengths)


def _counted(rows: Iterable[Row], progress: Progress) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if number % AT_ONCE == 0:
            progress("reading the labels", number)
        yield row


def _check_multi_hot(objective: Any, lengths: set[int], source: Source) -> None:
    """Refuse lists of a 0 or 1 for every label, which would be read as labels, or ids, 0 and 1."""
    length = lengths.pop() if len(lengths) == 1 else 0
    spelled = {"0", "1"} & set(objective.labels)
    if length > 1 and not spelled and len(objective.labels) in (0, length):
        raise UserError(
            f"{source.path}: column {objective.label!r} has a 0 or 1 for each of {length} labels (multi-hot): give the "
            'list of those that a text has, by name or id: ["news", "sports"] or [0, 3]'
        )


def _check_labels(objective: Any, trained: _Labels | None, source: Source) -> None:
    """Refuse labels that nothing can be learned from."""
    if not objective.labels:
        raise UserError(f"{source.path}: no record has a label: check objective.label, or objective.tags")
    single = isinstance(objective, Classification) and objective.problem == "single_label"
    if single and trained and len(trained.names) == 1:
        hidden = f"; {trained.untold:,} have none (null, empty or -1): where -1 is a label, name it in objective.labels"
        raise UserError(
            f"{source.path}: all training records have the label {next(iter(trained.names))!r}: nothing to learn"
            + (hidden if trained.untold else "")
        )
