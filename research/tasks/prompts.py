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
        UserError: the record has no column of a known name for one; names those that it has. Nothing says which of the
            languages of a translation is the source: names the flags that do.
    """
    try:
        return _guessed(objective, row)
    except UserError:
        languages = [name for name in columns.named(row) if name.startswith("translation.")]  # as sets of the hub have
        if len(languages) < 2:
            raise
        raise UserError(
            f"{row.place}: the record has {', '.join(languages)}: say from which to which, as --objective.source "
            f"{languages[0]} --objective.target {languages[1]}"
        ) from None


def _guessed(objective: Asked, row: Row) -> Asked:
    target = objective.target or columns.guess(row, "target", TARGETS + REFERENCES)
    source, references = objective.source, objective.references
    if not source and "source" in fields(objective.prompt):
        source = columns.guess(row, "source", SOURCES, but=[target])
    if not references and not objective.target:
        lists = (name for name in REFERENCES if isinstance(row.fields.get(name), list) and name != target)
        references = next(lists, "")
    return dataclasses.replace(objective, source=source, target=target, references=references)


def renamed(objective: Asked, row: Row, labelled: bool = True) -> Asked:
    """Return the objective with those columns guessed anew that a record of other data than its own has not.

    It stays as it is where no other column is known: reading then says which one is missing.
    """
    return columns.renamed(named_columns, objective, row, ["source", *["target"] * labelled])


def example(objective: Seq2Seq | Completion, row: Row, labelled: bool) -> Example:
    """Return {"place", "source", "columns" (others that the prompt reads), "target", "references"} of a record.

    A target may be a list of references, of which the first is trained on; else those of the column of references,
    where the record has some, are what a generated text is compared with. Null is None. Without labels, columns that
    the record has not are guessed anew.

    Raises:
        UserError: a column is missing or holds no text.
    """
    objective = objective if labelled else renamed(objective, row, labelled)
    read = fields(objective.prompt)
    found: Example = {"place": row.place, "source": ""}
    if "source" in read:
        found["source"] = columns.text(row, objective.source, "source")
    others = {name: columns.text(row, name, "prompt") for name in read if name != "source"}
    if others:
        found["columns"] = others
    if labelled:
        target = columns.value(row, objective.target, "target")
        if isinstance(target, list):
            several = _texts(target, row, objective.target, "target") or [None]
        else:
            several = [None if target is None else columns.text(row, objective.target, "target")]
        found |= {"target": several[0], "references": _references(objective, row) or several}
    return found


def _references(objective: Asked, row: Row) -> list[str]:
    """Return the texts in the column of references, none where there is no such column or nothing in it."""
    column = objective.references
    if not column or not columns.has(row, column):
        return []
    found = columns.value(row, column, "references") or []
    return _texts([found] if isinstance(found, str) else found, row, column, "references")


def _texts(found: object, row: Row, column: str, field: str) -> list[str]:
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    raise UserError(f"{row.place}: column {column!r} is no list of texts: mend it or set objective.{field}")


def blank(objective: Asked) -> Example:
    """Return an example with nothing in it."""
    return {"place": "", "source": "", "columns": dict.fromkeys(fields(objective.prompt), "")}


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
