"""Completion: records to rows of prompts and the answers to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from research.data.records import Row
from research.objectives.completion import Completion
from research.tasks import prompts as templates
from research.tasks import seq2seq
from research.tasks.coder import Coder
from research.tasks.items import Create, Items, lay
from research.tasks.rows import Example
from research.types import Structure, Vocabulary

SECOND = ()  # streams along a row's second dimension
KEEPS_EMPTY = True  # where it is scored: to leave it out would flatter

named_columns, renamed, blank = templates.named_columns, templates.renamed, templates.blank
untold, empty, texts = seq2seq.untold, seq2seq.empty, seq2seq.texts
names, ordered, has_labels = seq2seq.names, seq2seq.ordered, seq2seq.has_labels


def example(objective: Completion, row: Row, labelled: bool = True) -> Example:
    """Return {"place", "source", "columns", "target", "references"} of a record; see `prompts.example`."""
    return templates.example(objective, row, labelled)


def sources(objective: Completion, coder: Coder, length: int, examples: Sequence[Example]) -> list[templates.Prompt]:
    """Return what the decoder reads of each example before it answers: no special tokens, or an eos alone.

    The room is the same for every answer, length + 1 - target_length tokens, so that generation, which knows no
    answer, reads the same. Prompt and answer are tokenised apart for the same reason: where a space or a newline
    between them could be either's (byte-level BPE), the answer continues from the prompt's own ids.

    Raises:
        UserError: the template alone takes more than there is room for.
    """
    found = templates.prompts(coder, objective.prompt, examples, length + 1 - objective.target_length, objective.keep)
    nothing = [coder.unknown if coder.known.eos is None else coder.known.eos]
    return [templates.Prompt(ids or nothing, cut) for ids, cut in found]


def encode(
    objective: Completion,
    coder: Coder,
    length: int,
    structure: Structure,
    examples: Sequence[tuple[int, Example]],
    items: Items,
) -> Counter[str]:
    """Add examples, with their numbers, to `items`; return how many prompts, and how many answers, were cut."""
    counts = Counter[str]()
    plain = [each for _, each in examples]
    read = sources(objective, coder, length, plain)
    written = templates.targets(coder, plain, objective.target_length)
    for (number, _), prompt, (target, cut) in zip(examples, read, written, strict=True):
        counts.update(cut=prompt.cut, cut_targets=cut)
        answers = [0] * len(prompt.ids) + [1] * len(target)
        items.add(number, {"tokens": [*prompt.ids, *target], "answers": answers}, {})
    return counts


def fill(known: Vocabulary) -> dict[str, int]:
    """Return what each array has where there is nothing."""
    return {"tokens": known.pad or 0, "example": -1}


def arrays(
    objective: Completion, items: Items, length: int, known: Vocabulary, create: Create
) -> dict[str, np.ndarray]:
    """Return the arrays of the rows of length + 1 tokens that hold `items`, and `example` int32[R, K]."""
    placed = items.pack(length + 1, 0, objective.per_row)
    return lay(items, placed, length + 1, 0, objective.per_row, fill(known), create)
