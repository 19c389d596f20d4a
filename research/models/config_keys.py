"""Two-way keys: each family's `CONFIG` turns fields of `Arch` into keys of Hugging Face's config.json and back.

A family file holds three tables for it. `CONFIG` pairs fields with keys. `FIXED` lists keys that must have one value,
because another one means another function than ours. `CLASSES` names the classes of `transformers` that files of the
model belong to, by what states are projected onto (Arch.head), "none" where there is no head. Nothing here reads or
writes files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

REQUIRED = object()  # stands for the value of a key that config.json must have

ACTIVATIONS = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "relu": "relu",
    }
)


class Key(NamedTuple):
    """One value of theirs and the fields of ours that it sets."""

    ours: str | tuple[str, ...]  # fields of Arch
    theirs: str | tuple[str, ...]  # keys that must agree, as the encoder's and decoder's sizes
    absent: Any | Callable[[Mapping[str, Any]], Any] = REQUIRED  # what null or no such key means
    words: Mapping[str, Any] = MappingProxyType({})  # their word -> our value(s); the first that fits is written
    plus: int | str = 0  # theirs = ours + this number or field of Arch

    @property
    def fields(self) -> tuple[str, ...]:
        """Return `ours` as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def names(self) -> tuple[str, ...]:
        """Return `theirs` as a tuple."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs
