"""From a source of records to tables of rows: columns and labels, tokenizer, tokens; each stage cached."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from research.config import Run, is_task
from research.data import corpus
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
from research.objectives.classification import Classification
from research.objectives.seq2seq import Seq2Seq
from research.tasks import TASKS
from research.tasks.coder import Coder
from research.tasks.items import Items
from research.tasks.rows import Rows, Table, read
from research.tasks.survey import AT_ONCE, Survey, surveyed
from research.types import Objective, Split, Structure, UserError, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1  # of rows and tokenizers; a new number makes every cached folder unfound, and no run can be resumed
EXAMPLES = 2  # of what is kept beside the rows; a new number has the folders of both built anew


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
    survey: Survey  # of all splits, those without a table too

    def table(self, split: Split) -> Table:
        """Return the rows and examples of a split."""
        return self.tables[split]

    def rows(
        self, split: Split, lookahead: int = 0, batch_size: int = 1, seed: int = 0, order: Order | None = None
    ) -> Rows:
        """Return the rows of a split; they hold their lookahead already, and have no other order than shuffled."""
        return Rows(self.tables[split], batch_size, seed)


def prepared_for(
    run: Run,
    splits: Sequence[Split] = ("train", "validation"),
    progress: Progress | None = None,
    scored: tuple[Split, ...] | None = None,
) -> Prepared | corpus.Prepared:
    """Return the tokenizer and the rows of `splits` that the objective of `run` reads; of a task, `scored` as below."""
    if is_task(run):
        return prepare(run.objective, run.data, splits, progress, run.arch.structure, scored)
    return corpus.prepare(run.data, splits, progress)


def prepare(
    objective: Objective,
    data: Data,
    splits: Sequence[Split] = ("train", "validation"),
    progress: Progress | None = None,
    structure: Structure = "encoder",
    scored: tuple[Split, ...] | None = None,
) -> Prepared:
    """Return the tokenizer and the tables of `splits`, building what the cache does not hold.

    The cache has three kinds of folders: `columns` (which column is what, and the labels there are), `tokenizers`
    (trained on the texts of the training split) and `tasks` (arrays, examples and reports). Cleaning, framing and the
    other fields for running text play no part.

    Args:
        structure: Of the model: it decides where a text's special tokens are, and which state stands for it.
        scored: Splits of other data than were trained on, all of whose records are to be scored; columns that are not
            there are guessed anew. None: the data are the run's own, and all splits but training are scored.

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
    survey = surveyed(objective, source, tuple(splits), progress, scored)
    objective = survey.objective
    trained = survey.counts["train"] if scored is None else {}  # of other data it is not known here
    backend = load(data.tokenizer.path) if data.tokenizer.path else _trained(objective, data, progress)
    known, tokens = vocabulary(backend), tokenizer_fingerprint(backend)
    objective.check(data.length, known)
    made = [FORMAT, type(objective).__name__, _decisive(objective), structure, data.length, tokens, trained]
    names = {split: digest(made, fingerprint(source, split), split) for split in splits}
    judged = set(scored or ()) | (set(splits) - {"train"} if scored is None else set())
    coder: list[Coder] = []  # a copy of the tokenizer, made when it is needed

    def build(split: Split, folder: pathlib.Path) -> None:
        coder.extend([] if coder else [Coder(backend, known)])
        rows = _read(objective, source, split)
        _write(folder, objective, coder[0], data.length, structure, split, split in judged, rows, trained, progress)

    tables = {}
    for split in splits:
        # The same records elsewhere are the same, but have other places.
        at = digest(EXAMPLES, names[split], source.path, split in judged, asdict(objective))
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
        survey=survey,
    )


def _decisive(objective: Objective) -> dict[str, Any]:
    """Return the fields that rows change with: not the references, which texts are compared with."""
    values = {name: value for name, value in asdict(objective).items() if name != "references"}
    return values | ({"begin": objective.start} if isinstance(objective, Seq2Seq) else {})


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
        task.encode(objective, coder, length, structure, [(0, task.blank(objective))], items)
        made = task.arrays(objective, items, length, coder.known, _in_memory)
        made = {name: array[:0] for name, array in made.items()}
    return Table("rows", made, examples, dict(counts), task.fill(coder.known)), wrong


def _in_memory(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype)


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

    read = {name: value for name, value in asdict(objective).items() if name in (*objective.columns, "prompt")}
    name = digest(FORMAT, "records", asdict(data.tokenizer), fingerprint(source, "train"), read)
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
    scored: bool,
    read: Iterable[dict[str, Any]],
    trained: dict[str, int],
    progress: Progress,
) -> None:
    """Write the arrays, examples.jsonl and report.json of a split into `folder`.

    Unlabelled and empty records are left out of training. In a split that is scored an empty one stays (unless the task
    has nothing to score in it), and an unlabelled one is an error.
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
                if not (scored and task.KEEPS_EMPTY):
                    continue
            labels.update(task.names(objective, each))
            line = json.dumps(each).encode() + b"\n"
            offsets.append(offsets[-1] + file.write(line))
            waiting.append((counts["examples"], each))
            counts["examples"] += 1
            if len(waiting) == AT_ONCE:
                flush()
        flush()
    if scored:
        _check_scored(objective, split, counts, unlabelled, items)
    if not counts["examples"]:
        raise UserError(
            f"no record of the {split} split can be used: {counts['empty']} are empty and {counts['unlabelled']} have "
            "no label; check the objective's columns"
        )

    def create(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)

    made = task.arrays(objective, items, length, coder.known, create)
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    report = dict(counts) | _laid(items, made)
    if task.has_labels(objective):
        report["labels"] = {name: labels[name] for name in objective.labels}
        report["unseen"] = {name: count for name, count in sorted(labels.items()) if trained and name not in trained}
    report["fill"] = task.fill(coder.known)
    for array in made.values():
        array.flush()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _check_scored(objective: Objective, split: Split, counts: Counter[str], unlabelled: str, items: Items) -> None:
    """Refuse a split that cannot be scored for want of labels."""
    if isinstance(objective, Classification) and objective.problem == "regression" and counts["examples"]:
        if (np.asarray(items.values["labels"]) == -1).all():
            unlabelled, counts["unlabelled"] = unlabelled or f"the {split} split", counts["read"]
    if unlabelled and counts["unlabelled"] == counts["read"]:
        raise UserError(f"{unlabelled}: no record has a label, as where test labels are hidden: score another split")
    if unlabelled:
        raise UserError(
            f"{unlabelled}: the label is missing (null, empty or -1), and all records here are scored: mend or remove "
            "this one, or, where -1 is a label, name it in objective.labels"
        )


def _laid(items: Items, made: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what a report says of the rows."""
    rows, length = made["segments"].shape
    tokens = [int(np.asarray(sizes, np.int64).sum()) for sizes in items.sizes]
    report = {"items": len(items), "tokens": tokens[0], "rows": rows, "real": tokens[0] / (rows * length)}
    if items.second:
        report |= {"source_tokens": tokens[1], "source_real": tokens[1] / made["source"].size}
    return report | {"per_row": len(items) / rows}
