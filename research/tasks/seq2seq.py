"""Sequence to sequence: records to rows of sources and targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from research.data.records import Row
from research.objectives.seq2seq import Seq2Seq
from research.tasks import prompts as templates
from research.tasks.coder import Coder
from research.tasks.items import Create, Items, lay
from research.tasks.rows import Example
from research.types import Structure, UserError, Vocabulary

SECOND = ("source",)  # streams along a row's second dimension
KEEPS_EMPTY = True  # where it is scored: to leave it out would flatter

named_columns, renamed, blank = templates.named_columns, templates.renamed, templates.blank


def example(objective: Seq2Seq, row: Row, labelled: bool = True) -> Example:
    """Return {"place", "source", "columns", "target", "references"} of a record; see `prompts.example`."""
    return templates.example(objective, row, labelled)


def has_labels(objective: Seq2Seq) -> bool:
    """Return whether what is told has names."""
    return False


def untold(example: Example) -> bool:
    """Return whether an example has no target."""
    return example["target"] is None


def empty(example: Example) -> bool:
    """Return whether there is nothing to read, or nothing to write."""
    read = [example["source"], *example.get("columns", {}).values()]
    return not "".join(read).strip() or not (example["target"] or "").strip()


def texts(example: Example) -> list[str]:
    """Return what a tokenizer is trained on."""
    return [example["source"], *example.get("columns", {}).values(), example["target"] or ""]


def names(objective: Seq2Seq, example: Example) -> list[str]:
    """Return no labels: there are none."""
    return []


def ordered(found: Iterable[str]) -> tuple[str, ...]:
    """Return no labels: there are none."""
    return ()


def sources(objective: Seq2Seq, coder: Coder, length: int, examples: Sequence[Example]) -> list[templates.Prompt]:
    """Return what the encoder reads of each example: the prompt as the tokenizer's template frames it, ending in eos.

    Raises:
        UserError: the template alone takes more than `length` tokens, or there is no eos.
    """
    before, _, after = coder.single
    eos = coder.known.eos
    if eos is None:
        raise UserError("the tokenizer has no end-of-sequence token: choose another, or train one")
    if after[-1:] != [eos]:
        after = [*after, eos]
    room = length - len(before) - len(after)
    if room < 1:
        raise UserError(f"data.length {length} leaves no room beside the special tokens: raise it")
    found = templates.prompts(coder, objective.prompt, examples, room, objective.keep)
    return [templates.Prompt([*before, *ids, *after], cut) for ids, cut in found]


def begin(objective: Seq2Seq, known: Vocabulary) -> int:
    """Return the token that the decoder begins with."""
    token = getattr(known, objective.start)
    if token is None:
        raise UserError(f"objective.begin is {objective.start}, and the tokenizer has none: choose the other")
    return token


def encode(
    objective: Seq2Seq,
    coder: Coder,
    length: int,
    structure: Structure,
    examples: Sequence[tuple[int, Example]],
    items: Items,
) -> Counter[str]:
    """Add examples, with their numbers, to `items`; return how many sources, and how many targets, were cut.

    Targets end in eos and have no other special token; the decoder reads them shifted by one, behind its start token.
    """
    counts = Counter[str]()
    plain = [each for _, each in examples]
    read = sources(objective, coder, length, plain)
    written = templates.targets(coder, plain, objective.target_length)
    start = begin(objective, coder.known)
    for (number, _), source, (target, cut) in zip(examples, read, written, strict=True):
        counts.update(cut=source.cut, cut_targets=cut)
        streams = {"tokens": [start, *target[:-1]], "targets": target, "weights": [1] * len(target)}
        items.add(number, {"source": source.ids, **streams}, {})
    return counts


def fill(known: Vocabulary) -> dict[str, int]:
    """Return what each array has where there is nothing."""
    pad = known.pad or 0
    return {"tokens": pad, "targets": pad, "source": pad, "example": -1}


def arrays(
    objective: Seq2Seq, items: Items, length: int, known: Vocabulary, create: Create
) -> dict[str, np.ndarray]:
    """Return the arrays of the rows that hold `items`, as the objective reads them, and `example` int32[R, K]."""
    placed = items.pack(objective.target_length, length, objective.per_row)
    return lay(items, placed, objective.target_length, length, objective.per_row, fill(known), create)
