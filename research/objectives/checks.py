"""What every objective asks of its fields, its tokenizer and its rows, refused in one line before it is traced."""

from __future__ import annotations

import math
import string
from typing import TYPE_CHECKING

import numpy as np

from research.types import UserError

if TYPE_CHECKING:
    from research.types import Objective, Vocabulary

WORDS = {
    "pad": "a padding token",
    "eos": "an end-of-sequence token",
    "mask": "a mask token",
    "sentinels": "sentinel tokens (<extra_id_0>, <extra_id_1>, ...)",
    "modes": "the three mode tokens [NLU], [S2S] and [NLG]",
}


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise a UserError unless the `value` of field `name` lies in [low, high]."""
    if not low <= value <= high:  # also refuses nan
        bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise UserError(f"objective.{name} is {value}: it must be {bounds}")


def interval(least: str, low: float, most: str, high: float) -> None:
    """Raise a UserError unless the fields `least` and `most` are shares, the one not above the other."""
    within(least, low, 0, 1)
    within(most, high, 0, 1)
    if low > high:
        raise UserError(f"objective.{least} is {low}: it must not be above objective.{most}, {high}")


def row(objective: Objective, length: int, least: int, vocabulary: Vocabulary | None) -> None:
    """Raise a UserError unless rows have `least` tokens and the vocabulary, if given, has what the objective needs."""
    name = type(objective).__name__
    if length < least:
        raise UserError(f"data.length is {length}: {name} needs rows of at least {least} tokens")
    if vocabulary is None:
        return
    for field in objective.needs:
        value = getattr(vocabulary, field)
        if value is None or np.size(value) == 0:
            raise UserError(
                f"objective {name} needs a tokenizer with {WORDS[field]}, and this one has none: choose another "
                f"tokenizer or train one for this objective"
            )


def distinct(name: str, values: tuple[str, ...]) -> None:
    """Raise a UserError if the field `name` lists something twice."""
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"objective.{name} lists {value!r} twice: each label has one id")


def template(name: str, value: str) -> None:
    """Raise a UserError unless `value` is a template with at least one {column} in it, and columns alone.

    A column inside a structure is dotted, {translation.en}.
    """
    try:
        fields = [field for field in string.Formatter().parse(value) if field[1] is not None]
    except ValueError as error:
        raise UserError(f"objective.{name} {value!r} is not a template ({error}): write {{{{ for a brace") from None
    columns = [column for _, column, _, _ in fields]
    if any(how or kind or "[" in column or column.startswith("source.") for _, column, how, kind in fields):
        raise UserError(f"objective.{name} is {value!r}: it takes columns as they are, {{source}} or {{column}}, no formats")
    if not columns or not all(columns):
        raise UserError(f"objective.{name} is {value!r}: it must say where the source goes, as {{source}}")
