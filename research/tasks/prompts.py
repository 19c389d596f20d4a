"""What a model reads before it answers: a template with the columns of a record filled in, cut to the room there is."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from research.data.records import Row
from research.objectives.completion import Completion
from research.objectives.seq2seq import Seq2Seq
from research.tasks import columns
from research.tasks.coder import Coder, Ids
from research.tasks.rows import Example
from research.types import UserError

SOURCES = ("source", "src", "prompt", "question", "document", "dialogue", "article", "input", "text")
TARGETS = ("target", "tgt", "completion", "response", "answer", "summary", "output", "highlights")
REFERENCES = ("targets", "references")

Asked = TypeVar("Asked", Seq2Seq, Completion)


class Prompt(NamedTuple):
    """What is read, and whether it had to be cut."""

    ids: Ids
    cut: bool


def named_columns(objective: Asked, row: Row) -> Asked:
    """Return the objective with its columns filled in from those of a record.

    Raises:
        UserError: the record has no column of a known name for one; names those that it has.
    """
    target = objective.target or columns.guess(row, "target", TARGETS + REFERENCES)
    source = objective.source
    if not source and "source" in fields(objective.prompt):
        source = columns.guess(row, "source", SOURCES, but=[target])
    return dataclasses.replace(objective, source=source, target=target)


def example(objective: Seq2Seq | Completion, row: Row, labelled: bool) -> Example:
    """Return {"place", "source", "columns" (others that the prompt reads), "target", "references"} of a record.

    A target may be a list of references, of which the first is trained on; else the record's targets or references,
    where it has a list of them, are what a generated text is compared with. Null is None.

    Raises:
        UserError: a column is missing or holds no text.
    """
    read = fields(objective.prompt)
    found: Example = {"place": row.place, "source": ""}
    if "source" in read:
        read_text = columns.text if labelled else columns.only_text
        found["source"] = read_text(row, objective.source, "source")
    others = {name: columns.text(row, name, "prompt") for name in read if name != "source"}
    if others:
        found["columns"] = others
    if labelled:
        target = columns.value(row, objective.target, "target")
        references = next((row.fields[name] for name in REFERENCES if row.fields.get(name)), None)
        if isinstance(target, list):
            references, target = target, target[0] if target else None
        if target is not None and not isinstance(target, str):
            columns.text(row, objective.target, "target")
            raise UserError(f"{row.place}: column {objective.target!r} is a list of other things than text")
        if not (isinstance(references, list) and references and all(isinstance(each, str) for each in references)):
            references = [target]
        found |= {"target": target, "references": references}
    return found


def fields(prompt: str) -> list[str]:
    """Return the columns that a template names, each once."""
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(prompt) if name))


def filled(prompt: str, example: Example) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """Return the text of a prompt, and where in it the value of each column is."""
    text, spans = "", {}
    for literal, name, _, _ in string.Formatter().parse(prompt):
        text += literal
        if name:
            value = example["source"] if name == "source" else example["columns"][name]
            spans.setdefault(name, []).append((len(text), len(text) + len(value)))
            text += value
    return text, spans


def prompts(
    coder: Coder, prompt: str, examples: Sequence[Example], room: int, keep: Literal["start", "end"]
) -> list[Prompt]:
    """Return the ids of each example's prompt, without special tokens, `room` at most.

    Of one that is too long the end (or the start) of the source's own tokens is left out, and when all of those are, of
    the other columns, the last one first. The template's words always stay.

    Raises:
        UserError: the template alone takes more than there is room for.
    """
    texts = [filled(prompt, each)[0] for each in examples]
    return [
        Prompt(ids, False) if len(ids) <= room else _cut(coder, prompt, each, room, keep)
        for ids, each in zip(coder.ids(texts), examples, strict=True)
    ]


def _cut(coder: Coder, prompt: str, example: Example, room: int, keep: Literal["start", "end"]) -> Prompt:
    text, spans = filled(prompt, example)
    ids, offsets = coder.offsets(text)
    order = sorted(spans, key=lambda name: (name != "source", -spans[name][0][0]))
    dropped: set[int] = set()
    for start, end in (span for name in order for span in reversed(spans[name])):
        inside = [
            i
            for i, (first, last) in enumerate(offsets)
            if start < last <= end and (first >= start or text[first:start].isspace())
        ]
        excess = len(ids) - room - len(dropped)
        dropped.update((inside[::-1] if keep == "start" else inside)[: max(excess, 0)])
    if len(ids) - len(dropped) > room:
        raise UserError(
            f"{example['place']}: objective.prompt alone takes {len(ids) - len(dropped)} tokens, and there is room for "
            f"{room}: shorten it or raise data.length"
        )
    return Prompt([token for i, token in enumerate(ids) if i not in dropped], True)


def targets(coder: Coder, examples: Sequence[Example], room: int) -> list[tuple[Ids, bool]]:
    """Return the ids of each example's target with its eos, `room` at most, and whether it was cut; none is empty."""
    eos = coder.known.eos
    if eos is None:
        raise UserError("the tokenizer has no end-of-sequence token: choose another, or train one")
    found = coder.ids([each.get("target") or "" for each in examples])
    return [([*ids[: room - 1], eos], len(ids) > room - 1) for ids in found]
