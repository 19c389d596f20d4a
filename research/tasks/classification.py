"""Classification: records to rows of texts with their labels, and a model's answers to probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from research.data.records import Row
from research.objectives.classification import Classification
from research.tasks import columns
from research.tasks.coder import Coder, Frame, Ids
from research.tasks.items import Create, Items, lay
from research.tasks.rows import Example, Table
from research.types import Structure, UserError, Vocabulary, did_you_mean

TEXTS = ("text", "sentence", "content", "review", "body", "message", "document")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)
LABELS = ("label", "labels", "class", "category", "score", "target")
ALONE = "-"  # as the name of the second text's column: there is none
SECOND = ()  # streams along a row's second dimension
KEEPS_EMPTY = True  # where it is scored: to leave it out would flatter


def named_columns(objective: Classification, row: Row) -> Classification:
    """Return the objective with its columns filled in from those of a record; a known pair comes before one text.

    Raises:
        UserError: the record has no column of a known name for one; names those that it has.
    """
    text, pair = objective.text, objective.pair
    if not pair:
        pairs = (each for each in PAIRS if columns.has(row, each[0]) and columns.has(row, each[1]))
        text, pair = next((each for each in pairs if text in ("", each[0])), (text, ""))
    label = objective.label or columns.guess(row, "label", LABELS, but=[text, pair])
    text = text or columns.guess(row, "text", TEXTS, but=[label, pair])
    return dataclasses.replace(objective, text=text, pair=pair, label=label)


def renamed(objective: Classification, row: Row, labelled: bool = True) -> Classification:
    """Return the objective with those columns guessed anew that a record of other data than its own has not.

    It stays as it is where no other column is known: reading then says which one is missing. A pair stays a pair.
    """
    lost = columns.lacking(objective, row, ["text", *["pair"] * objective.paired, *["label"] * labelled])
    if not lost:
        return objective
    if not objective.paired:
        lost["pair"] = ALONE
    elif "text" in lost or "pair" in lost:
        lost |= {"text": "", "pair": ""}
    try:
        found = named_columns(dataclasses.replace(objective, **lost), row)
    except UserError:
        return objective
    if found.paired != objective.paired:
        return objective
    return found if found.paired else dataclasses.replace(found, pair=objective.pair)


def example(objective: Classification, row: Row, labelled: bool = True) -> Example:
    """Return {"place", "text", "pair" where texts are pairs, "label"} of a record.

    The label is a name, a list of names, or a number; None where it is not told: null, empty, -1 or -100, or a list of
    these alone (unless they are among objective.labels, or a number is wanted).

    Without labels, columns that the record has not are guessed anew. Where objective.labels are names, data may have
    their ids instead.

    Raises:
        UserError: a column is missing or holds no text, or the label is none of the problem's.
    """
    objective = objective if labelled else renamed(objective, row, labelled)
    found: Example = {"place": row.place, "text": columns.text(row, objective.text, "text")}
    if objective.paired:
        found["pair"] = columns.text(row, objective.pair, "pair")
    if labelled:
        found["label"] = _label(objective, row)
    return found


def _label(objective: Classification, row: Row) -> str | list[str] | float | None:
    column = objective.label
    label = columns.value(row, column, "label")
    if objective.problem == "regression":
        return None if label in (None, "") else _number(label, row, column)
    if objective.problem == "multi_label":
        several = columns.told(row, column, "label", objective.labels)
        return None if several is None else sorted(set(several))
    if isinstance(label, list):
        raise UserError(f"{row.place}: column {column!r} holds a list: set objective.problem to multi_label")
    if columns.untold(label, objective.labels):
        return None
    if isinstance(label, float) and math.isfinite(label) and not label.is_integer():
        raise UserError(f"{row.place}: label {label} is a number: set objective.problem to regression, or mend it")
    return columns.by_id(columns.name_of(label, row, column, "label"), objective.labels)


def multi_hot(objective: Classification, row: Row) -> int:
    """Return how long the list of labels of a record is if there is but 0 and 1 in it; else 0."""
    labels = columns.value(row, objective.label, "label")
    return len(labels) if isinstance(labels, list) and all(each in (0, 1, "0", "1") for each in labels) else 0


def _number(label: object, row: Row, column: str) -> float:
    try:
        number = math.nan if isinstance(label, bool) else float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row.place}: {label!r} in column {column!r} is not a number, as a regression needs: mend it")
    return number


def has_labels(objective: Classification) -> bool:
    """Return whether what is told has names."""
    return objective.problem != "regression"


def blank(objective: Classification) -> Example:
    """Return an example with nothing in it."""
    return {"place": "", "text": "", "pair": ""}


def untold(example: Example) -> bool:
    """Return whether an example has no label."""
    return example["label"] is None


def empty(example: Example) -> bool:
    """Return whether there is nothing to read."""
    return not example["text"].strip() and not example.get("pair", "").strip()


def texts(example: Example) -> list[str]:
    """Return what a tokenizer is trained on."""
    return [example["text"], *([example["pair"]] if "pair" in example else [])]


def names(objective: Classification, example: Example) -> list[str]:
    """Return the names of the labels that an example has."""
    label = example["label"]
    if objective.problem == "regression" or label is None:
        return []
    return label if isinstance(label, list) else [label]


def ordered(found: Iterable[str]) -> tuple[str, ...]:
    """Return labels in the order of their ids."""
    return columns.in_order(found)


def encode(
    objective: Classification,
    coder: Coder,
    length: int,
    structure: Structure,
    examples: Sequence[tuple[int, Example]],
    items: Items,
) -> Counter[str]:
    """Add examples, with their numbers, to `items`; return how many were cut.

    An encoder reads a text, or two, as the tokenizer's own template has them. A decoder reads each with its eos behind
    it, for its last state has read everything.
    """
    paired, counts = objective.paired, Counter[str]()
    frame = _frame(coder, structure, paired)
    room = length - frame.size
    if room < 1 + paired:
        raise UserError(f"data.length {length} leaves no room beside {frame.size} special tokens: raise it")
    first = coder.ids([each["text"] for _, each in examples])
    second = coder.ids([each["pair"] for _, each in examples]) if paired else [[]] * len(first)
    types = coder.types if structure == "encoder" and paired else None
    for (number, each), a, b in zip(examples, first, second, strict=True):
        counts["cut"] += len(a) + len(b) > room
        kept = longest_first(len(a), len(b), room) if paired else (room, 0)
        parts = [frame.before, a[: kept[0]], frame.between, b[: kept[1]], frame.after]
        tokens = [token for part in parts for token in part] or [coder.unknown]
        streams: dict[str, Ids] = {"tokens": tokens}
        if types:
            streams["types"] = [kind for part, kind in zip(parts, types, strict=True) for _ in part]
        select = 0 if structure == "encoder" else len(tokens) - 1
        items.add(number, streams, {"select": select, "labels": _target(objective, each), "weights": 1.0})
    return counts


def _frame(coder: Coder, structure: Structure, paired: bool) -> Frame:
    if structure == "encoder":
        return coder.pair if paired else coder.single
    before, _, after = coder.single
    eos = [] if coder.known.eos is None else [coder.known.eos]
    if eos and after[-1:] != eos:
        after = after + eos
    return Frame(before, after if paired else [], after)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each of two texts are kept in `room`, as `tokenizers` cuts with longest_first."""
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    kept = (long, short) if first > second else (short, long)
    return min(first, kept[0]), min(second, kept[1])


def _target(objective: Classification, example: Example) -> int | list[float]:
    label = example.get("label")
    if objective.problem == "regression":
        return [label or 0.0]
    if objective.problem == "multi_label":
        chosen = {label_id(objective.labels, name, example) for name in label or ()}
        return [float(i in chosen) for i in range(len(objective.labels))]
    return 0 if label is None else label_id(objective.labels, label, example)


def label_id(labels: tuple[str, ...], name: str, example: Example) -> int:
    """Return the id of a label.

    Raises:
        UserError: it is none of `labels`; names the nearest.
    """
    try:
        return labels.index(name)
    except ValueError:
        nearest = did_you_mean(name, labels) or f", which are {', '.join(labels[:8])}"
        raise UserError(f"{example['place']}: label {name!r} is not among objective.labels{nearest}") from None


def fill(known: Vocabulary) -> dict[str, int]:
    """Return what each array has where there is nothing."""
    return {"tokens": known.pad or 0, "example": -1}


def arrays(
    objective: Classification, items: Items, length: int, known: Vocabulary, create: Create
) -> dict[str, np.ndarray]:
    """Return the arrays of the rows that hold `items`, as the objective reads them, and `example` int32[R, K]."""
    placed = items.pack(length, 0, objective.per_row)
    made = lay(items, placed, length, 0, objective.per_row, fill(known), create)
    made["select"][placed.row, placed.slot] += placed.offset[0].astype(np.int32)
    return made


class Answers:
    """The answers to examples, gathered from rows in any order and batches of any size."""

    def __init__(self, objective: Classification, table: Table) -> None:
        self.objective, self.table = objective, table
        self._found: dict[int, np.ndarray | float] = {}

    def add(self, index: np.ndarray, logits: np.ndarray) -> None:
        """Take what a model said of the rows numbered `index`, int64[B]: logits float32[B, K, N]; of a row that is met
        twice the first counts."""
        for number, answer in predictions(self.objective, self.table, index[::-1], logits[::-1]).items():
            self._found.setdefault(number, answer)

    def found(self) -> dict[int, np.ndarray | float]:
        """Return {example: float32[N] probabilities, or the number}, of the examples that have been met."""
        return dict(sorted(self._found.items()))


def predictions(
    objective: Classification, table: Table, index: np.ndarray, logits: np.ndarray
) -> dict[int, np.ndarray | float]:
    """Return {example: float32[N] probabilities, or the number} of the rows numbered `index`, int64[B].

    Args:
        logits: float32[B, K, N]. Those of rows from `table.count` on, and of slots without an example, say nothing.
    """
    examples = table.pick(index, ["example"])["example"]
    logits = np.asarray(logits, np.float32)
    if objective.problem == "regression":
        return {int(n): float(x) for n, x in zip(examples[examples >= 0], logits[examples >= 0][:, 0], strict=True)}
    chosen = logits[examples >= 0]
    if objective.problem == "multi_label":
        found = 0.5 * (1 + np.tanh(0.5 * chosen))  # a sigmoid that never overflows
    else:
        powers = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
        found = powers / powers.sum(axis=-1, keepdims=True)
    return {int(n): each for n, each in zip(examples[examples >= 0], found, strict=True)}
