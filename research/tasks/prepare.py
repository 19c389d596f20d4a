"""From a source of records to tables of rows: columns and labels, tokenizer, tokens; each stage cached."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from research.data.batches import Order
from research.data.cache import cached
from research.data.cache import fingerprint as digest
from research.data.corpus import Data
from research.data.packing import Progress
from research.data.records import Row, fingerprint, records
from research.data.sources import Source
from research.data.sources import name as name_of
from research.data.tokenizer import fingerprint as tokenizer_fingerprint
from research.data.tokenizer import load, save, train, vocabulary
from research.tasks import TASKS
from research.tasks.coder import Coder
from research.tasks.items import Items
from research.tasks.prompts import fields
from research.tasks.rows import Rows, Table, read
from research.types import Objective, Split, Structure, UserError, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1  # of every folder below; a new number makes every cached folder unfound
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
AT_ONCE = 2048  # records encoded at once: the tokenizer's threads have enough to do, and memory stays small


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that training and evaluation read of their data."""

    data: Data
    objective: Objective  # its columns and labels filled in
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    tables: dict[Split, Table]
    reports: dict[Split, tuple[dict[str, Any], ...]]  # one: of the one source
    fingerprint: str  # of all the tables, and of the tokenizer
    parts: dict[Split, str]  # fingerprints of the table of each split
    tokenizer_fingerprint: str

    def table(self, split: Split) -> Table:
        """Return the rows and examples of a split."""
        return self.tables[split]

    def rows(
        self, split: Split, lookahead: int = 0, batch_size: int = 1, seed: int = 0, order: Order | None = None
    ) -> Rows:
        """Return the rows of a split; they hold their lookahead already, and have no other order than shuffled."""
        return Rows(self.tables[split], batch_size, seed)


def prepare(
    objective: Objective,
    data: Data,
    splits: Sequence[Split] = ("train", "validation"),
    progress: Progress | None = None,
    structure: Structure = "encoder",
) -> Prepared:
    """Return the tokenizer and the tables of `splits`, building what the cache does not hold.

    The cache has three kinds of folders: `columns` (which column is what, and the labels there are), `tokenizers`
    (trained on the texts of the training split) and `tasks` (arrays, examples and reports). Cleaning, framing and the
    other fields for running text play no part.

    Args:
        structure: Of the model: it decides where a text's special tokens are, and which state stands for it.

    Raises:
        UserError: not one source; a source, the tokenizer or the cache cannot be used; a column is missing, a label is
            wrong, or a split that is scored is not wholly labelled. Names file, line and field.
    """
    if len(data.sources) != 1:
        raise UserError(f"a task reads one source of records, not {len(data.sources)}: give data.sources one")
    if data.order != "shuffled":
        raise UserError(f"data.order {data.order!r} is for running text: use shuffled")
    source, progress = data.sources[0], progress or (lambda what, done: None)
    for split in splits:
        fingerprint(source, split)  # a split that is not there is refused before anything is built
    objective, survey = _surveyed(objective, source, tuple(splits), progress)
    backend = load(data.tokenizer.path) if data.tokenizer.path else _trained(objective, data, progress)
    known, tokens = vocabulary(backend), tokenizer_fingerprint(backend)
    objective.check(data.length, known)
    made = [FORMAT, type(objective).__name__, asdict(objective), structure, data.length, tokens, survey["train"]]
    names = {split: digest(made, fingerprint(source, split), split) for split in splits}
    coder: list[Coder] = []  # a copy of the tokenizer, made when it is needed

    def build(split: Split, folder: pathlib.Path) -> None:
        coder.extend([] if coder else [Coder(backend, known)])
        rows = _read(objective, source, split)
        _write(folder, objective, coder[0], data.length, structure, split, rows, survey["train"], progress)

    tables = {}
    for split in splits:
        at = digest(names[split], source.path)  # the same records elsewhere are the same, but have other places
        folder = cached("tasks", at, lambda folder, split=split: build(split, folder))
        tables[split] = read(folder, f"{name_of(source)} ({split})")
    return Prepared(
        data=data,
        objective=objective,
        tokenizer=backend,
        vocabulary=known,
        tables=tables,
        reports={split: (table.report,) for split, table in tables.items()},
        fingerprint=digest(tokens, names),
        parts=names,
        tokenizer_fingerprint=tokens,
    )


def encode_rows(
    objective: Objective,
    coder: Coder,
    length: int,
    rows: Sequence[Row],
    structure: Structure = "encoder",
    labelled: bool = False,
) -> tuple[Table, dict[int, str]]:
    """Return a table of records in memory, for prediction, and {number: what is wrong} of those that are not in it.

    Args:
        objective: With its columns and labels filled in, as `Prepared` and a run's folder have it.
        rows: A chunk of any length; example n of the table is rows[n]. The wrong ones have their place alone there.
        labelled: Whether their labels are read too, to be scored.
    """
    task, items, wrong = TASKS[type(objective)], Items(TASKS[type(objective)].SECOND), {}
    examples: list[dict[str, Any]] = []
    counts = Counter[str]()
    for number, row in enumerate(rows):
        examples.append({"place": row.place})
        try:
            if row.error:
                raise UserError(row.error)
            examples[-1] = task.example(objective, row, labelled)
            if labelled and task.untold(examples[-1]):
                raise UserError(f"{row.place}: the label is missing")
        except UserError as error:
            wrong[number] = str(error)
    good = [(number, each) for number, each in enumerate(examples) if number not in wrong]
    try:
        counts += task.encode(objective, coder, length, structure, good, items)
    except UserError:  # of one of them: each by itself
        items = Items(task.SECOND)
        for number, each in good:
            try:
                counts += task.encode(objective, coder, length, structure, [(number, each)], items)
            except UserError as error:
                wrong[number] = str(error)
    made = task.arrays(objective, items, length, coder.known, _in_memory) if len(items) else {}
    if not made:  # nothing to read: a table without a row, of the right arrays
        blank = task.example(objective, _blank(objective), False)
        task.encode(objective, coder, length, structure, [(0, blank)], items)
        made = task.arrays(objective, items, length, coder.known, _in_memory)
        made = {name: array[:0] for name, array in made.items()}
    return Table("rows", made, examples, dict(counts), task.fill(coder.known)), wrong


def _blank(objective: Objective) -> Row:
    """Return a record with nothing in it that can be read."""
    columns = [getattr(objective, name, "") for name in ("text", "pair", "source")]
    blank: dict[str, Any] = dict.fromkeys([*columns, *fields(getattr(objective, "prompt", ""))], "")
    return Row("", 0, blank | {getattr(objective, "words", ""): ["."]})


def _in_memory(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype)


def _surveyed(
    objective: Objective, source: Source, splits: tuple[Split, ...], progress: Progress
) -> tuple[Objective, dict[str, Any]]:
    """Return the objective with its columns and labels filled in, and how often each label is in each split."""
    found: dict[Split, str] = {}
    for split in SPLITS:
        try:
            found[split] = fingerprint(source, split)
        except UserError:  # there is no such split; what is wrong with a split that there is shows when it is read
            continue

    def build(folder: pathlib.Path) -> None:
        task = TASKS[type(objective)]
        first = next(split for split in SPLITS if split in found)
        named = task.named_columns(objective, next(iter(records(source, first))))
        counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        if hasattr(objective, "labels") and getattr(objective, "problem", "") != "regression":
            for split in found:
                try:
                    read = (task.example(named, row) for row in _counted(records(source, split), progress))
                    tally = Counter(itertools.chain.from_iterable(task.names(named, each) for each in read))
                except UserError:
                    if split in splits:
                        raise
                    continue  # nobody asked for this split: a test split often lacks the labels
                counts[split] = dict(sorted(tally.items()))
            if not named.labels:
                labels = task.ordered(itertools.chain.from_iterable(counts.values()))
                named = dataclasses.replace(named, labels=labels)
            _check_labels(named, counts, source)
        (folder / "found.json").write_text(
            json.dumps({"objective": asdict(named), "counts": counts}, ensure_ascii=True) + "\n", encoding="utf-8"
        )

    name = digest(FORMAT, type(objective).__name__, asdict(objective), found, sorted(splits))
    result = json.loads((cached("columns", name, build) / "found.json").read_text(encoding="utf-8"))
    filled = {key: tuple(value) if isinstance(value, list) else value for key, value in result["objective"].items()}
    return type(objective)(**filled), result["counts"]


def _counted(rows: Iterable[Row], progress: Progress) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if number % AT_ONCE == 0:
            progress("reading the labels", number)
        yield row


def _check_labels(objective: Any, counts: dict[str, dict[str, int]], source: Source) -> None:
    if not objective.labels:
        raise UserError(f"{source.path}: no record has a label: check objective.label, or objective.tags")
    trained = counts["train"]
    if getattr(objective, "problem", "") == "single_label" and len(trained) == 1:
        raise UserError(f"{source.path}: all training records have the label {next(iter(trained))!r}: nothing to learn")


def _trained(objective: Objective, data: Data, progress: Progress) -> PreTrainedTokenizerFast:
    """Return the tokenizer trained on the texts of the training split, sources and targets together."""
    task, source = TASKS[type(objective)], data.sources[0]

    def sample() -> Iterator[str]:
        room = data.tokenizer.sample
        for row in records(source, "train"):
            for text in task.texts(task.example(objective, row)):
                room -= len(text)
                yield text
            if room <= 0:
                return

    def build(folder: pathlib.Path) -> None:
        progress("training the tokenizer", 0)
        save(train(data.tokenizer, sample()), folder)

    columns = [getattr(objective, name, "") for name in ("text", "pair", "words", "source", "target", "prompt")]
    name = digest(FORMAT, "records", asdict(data.tokenizer), fingerprint(source, "train"), columns)
    return load(str(cached("tokenizers", name, build)))


def _read(objective: Objective, source: Source, split: Split) -> Iterator[dict[str, Any]]:
    task = TASKS[type(objective)]
    return (task.example(objective, row) for row in records(source, split))


def _write(
    folder: pathlib.Path,
    objective: Objective,
    coder: Coder,
    length: int,
    structure: Structure,
    split: Split,
    read: Iterable[dict[str, Any]],
    trained: dict[str, int],
    progress: Progress,
) -> None:
    """Write the arrays, examples.jsonl and report.json of a split into `folder`.

    Unlabelled and empty records are left out of training. In a split that is scored an empty one stays, for to leave
    it out would flatter (a document without words has nothing to score and goes), and an unlabelled one is an error.
    """
    task, items = TASKS[type(objective)], Items(TASKS[type(objective)].SECOND)
    counts: Counter[str] = Counter(read=0, examples=0, empty=0, unlabelled=0, cut=0)
    labels: Counter[str] = Counter()
    offsets, waiting, unlabelled = [0], [], ""
    with open(folder / "examples.jsonl", "wb") as file:

        def flush() -> None:
            counts.update(task.encode(objective, coder, length, structure, waiting, items))
            waiting.clear()
            progress("tokenising", counts["read"])

        for each in read:
            counts["read"] += 1
            if task.untold(each):
                counts["unlabelled"] += 1
                unlabelled = unlabelled or each["place"]
                continue
            if task.empty(each):
                counts["empty"] += 1
                if split == "train" or type(objective).__name__ == "Tagging":
                    continue
            labels.update(task.names(objective, each))
            line = json.dumps(each).encode() + b"\n"
            offsets.append(offsets[-1] + file.write(line))
            waiting.append((counts["examples"], each))
            counts["examples"] += 1
            if len(waiting) == AT_ONCE:
                flush()
        flush()
    _check_split(objective, split, counts, unlabelled, items)

    def create(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)

    made = task.arrays(objective, items, length, coder.known, create)
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    report = dict(counts) | _laid(items, made)
    if getattr(objective, "labels", ()):
        report["labels"] = {name: labels[name] for name in objective.labels}
        report["unseen"] = {name: count for name, count in sorted(labels.items()) if trained and name not in trained}
    report["fill"] = task.fill(coder.known)
    for array in made.values():
        array.flush()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _check_split(objective: Any, split: Split, counts: Counter[str], unlabelled: str, items: Items) -> None:
    """Refuse a split that cannot be trained on, or be scored, for want of labels."""
    if getattr(objective, "problem", "") == "regression" and split != "train" and counts["examples"]:
        if (np.asarray(items.values["labels"]) == -1).all():
            unlabelled, counts["unlabelled"] = unlabelled or "the split", counts["read"]
    if split != "train" and unlabelled:
        if counts["unlabelled"] == counts["read"]:
            raise UserError(
                f"{unlabelled}: the {split} split has no labels, its test labels are hidden: use another split"
            )
        raise UserError(
            f"{unlabelled}: the label is missing (null, empty or -1), and the {split} split is scored: mend or remove "
            "the record, or, where -1 is a label, name it in objective.labels"
        )
    if not counts["examples"]:
        raise UserError(
            f"no record of the {split} split can be used: {counts['empty']} are empty and {counts['unlabelled']} have "
            "no label; check the objective's columns"
        )


def _laid(items: Items, made: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what a report says of the rows."""
    rows, length = made["segments"].shape
    tokens = [int(np.asarray(sizes, np.int64).sum()) for sizes in items.sizes]
    report = {"items": len(items), "tokens": tokens[0], "rows": rows, "real": tokens[0] / (rows * length)}
    if items.second:
        report |= {"source_tokens": tokens[1], "source_real": tokens[1] / made["source"].size}
    return report | {"per_row": len(items) / rows}
