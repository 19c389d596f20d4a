"""Columns of records: which one holds what, and the values in them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from research.data.files import type_of
from research.data.records import Row
from research.types import UserError

Named = TypeVar("Named")  # an objective with columns

UNTOLD = (None, -1, "-1", -100, "-100", "")
"""How data hide labels: GLUE's test splits by -1, Hugging Face's losses pass over -100, others have null or nothing."""


def named(row: Row) -> list[str]:
    """Return the names of a record's columns, those inside a structure dotted: translation.en."""
    return list(_named(row.fields, ""))


def _named(fields: dict[str, Any], before: str) -> Iterable[str]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _named(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def guess(row: Row, field: str, known: Sequence[str], but: Sequence[str] = ()) -> str:
    """Return the first of the `known` columns that a record has, in capitals or not, those in `but` apart.

    Raises:
        UserError: it has none of them; names those that it has, and the objective's `field` to set.
    """
    names = named(row)
    free = [name for name in names if name not in but]
    spelled = {name.lower(): name for name in reversed(free)} | {name: name for name in free}
    found = next((spelled[name] for name in known if name in spelled), "")
    if not found:
        raise UserError(
            f"{row.place}: no column is called {known[0]} or alike, only {', '.join(map(repr, names))}: "
            f"set objective.{field}"
        )
    return found


def has(row: Row, column: str) -> bool:
    """Return whether a record has `column`, which may be dotted."""
    return column in row.fields or column in named(row)


def lacking(objective: Any, row: Row, names: Iterable[str]) -> dict[str, str]:
    """Return {field: ""} for those of an objective's fields `names` whose column a record has not."""
    return {name: "" for name in names if getattr(objective, name) and not has(row, getattr(objective, name))}


def renamed(guess: Callable[[Named, Row], Named], objective: Named, row: Row, names: Iterable[str]) -> Named:
    """Return the objective with those of its fields `names` guessed anew whose column a record has not.

    It stays as it is where `guess`, a task's named_columns, knows no other: reading then says which one is missing.
    """
    lost = lacking(objective, row, names)
    try:
        return guess(dataclasses.replace(objective, **lost), row) if lost else objective
    except UserError:
        return objective


def value(row: Row, column: str, field: str) -> Any:
    """Return what `column` of a record holds.

    Raises:
        UserError: there is no such column; names those that there are, and the objective's `field` to set.
    """
    if column in row.fields:
        return row.fields[column]
    found: Any = row.fields
    for part in column.split("."):
        if not isinstance(found, dict) or part not in found:
            present = ", ".join(map(repr, named(row)))
            remedy = f"set objective.{field} before training, or rename one to {column!r}"
            raise UserError(f"{row.place}: no column {column!r}, only {present}: {remedy}")
        found = found[part]
    return found


def text(row: Row, column: str, field: str) -> str:
    """Return the text of `column`, empty where it is null.

    Raises:
        UserError: there is no such column, or it holds something else than text.
    """
    found = value(row, column, field)
    if found is not None and not isinstance(found, str):
        raise UserError(f"{row.place}: column {column!r} holds {type_of(found)}, not text: {_remedy(field)}")
    return found or ""


def alone(row: Row) -> str:
    """Return the name of a record's one column if it holds text, which is what to read, whatever its name; else ""."""
    name, held = next(iter(row.fields.items()), ("", None))
    return name if len(row.fields) == 1 and isinstance(held, str) else ""


def as_line(row: Row, column: str) -> Row:
    """Return a record of `column` alone with its text called as that of a line of plain text is; others as they are."""
    return row._replace(fields={"text": row.fields[column]}) if column and alone(row) == column else row


def _remedy(field: str) -> str:
    """Return what to do about a value of the wrong kind: predict, whose model is trained, sets no columns."""
    return f"mend or remove the record, or set objective.{field} before training"


def strings(row: Row, column: str, field: str, spaced: bool = False, kind: str = "label") -> list[str]:
    """Return the list of strings that `column` holds, empty where it is null; whole numbers and truth values by name.

    Args:
        spaced: whether a text is a list too, of what white space parts in it.
        kind: what each string is, for messages.

    Raises:
        UserError: there is no such column, or it holds something else.
    """
    found = value(row, column, field)
    if found is None:
        return []
    if spaced and isinstance(found, str):
        return found.split()
    if not isinstance(found, list):
        remedy = "give JSON lines or Parquet, for CSV has none" if isinstance(found, str) else _remedy(field)
        raise UserError(f"{row.place}: column {column!r} holds {type_of(found)}, not a list: {remedy}")
    return [name_of(each, row, column, field, kind) for each in found]


def untold(label: Any, labels: Sequence[str]) -> bool:
    """Return whether a label, or each of a list, is one of UNTOLD, and none of `labels` that is spelled so."""
    if isinstance(label, list):
        return bool(label) and all(untold(each, labels) for each in label)
    return label is None or (label in UNTOLD and str(label).removesuffix(".0") not in labels)


def told(row: Row, column: str, field: str, labels: Sequence[str], spaced: bool = False) -> list[str] | None:
    """Return the names of the labels, or ids of `labels`, in the list that `column` holds; None where it is untold.

    Raises:
        UserError: as `strings`; or some of them are told and others not.
    """
    found = value(row, column, field)
    each = found.split() if spaced and isinstance(found, str) else found
    if untold(each, labels):
        return None
    for one in each if isinstance(each, list) else ():
        if untold(one, labels):
            raise UserError(
                f"{row.place}: {one!r} in column {column!r}, beside labels that are told: mend or remove the record, "
                "or, where that is a label, name it in objective.labels"
            )
    return [by_id(name, tuple(labels)) for name in strings(row, column, field, spaced)]


def name_of(label: Any, row: Row, column: str, field: str, kind: str = "label") -> str:
    """Return how a label is called: a string as it stands, 3 and 3.0 are "3", true is "true".

    Raises:
        UserError: it is something else: null, a fraction, a list.
    """
    if isinstance(label, str):
        return label
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return str(int(label))
    said = "NaN" if isinstance(label, float) and math.isnan(label) else "null" if label is None else repr(label)[:40]
    what = "the name of a label" if kind == "label" else f"a {kind}"
    raise UserError(f"{row.place}: {said} in column {column!r} is not {what}: {_remedy(field)}")


def by_id(name: str, labels: tuple[str, ...]) -> str:
    """Return what a label is called where data have its id: of `labels`, unless one of them is spelled as a number.

    An id beyond them stays as it is, and is then none of them.
    """
    if not name.isdecimal() or len(name) > 9 or not labels or _numbered(labels):
        return name
    return labels[int(name)] if int(name) < len(labels) else name


@functools.lru_cache(maxsize=16)
def _numbered(labels: tuple[str, ...]) -> bool:
    return any(label.removeprefix("-").isdecimal() for label in labels)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted: as numbers if all are, else as text."""
    found = sorted(set(labels))
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(found)
