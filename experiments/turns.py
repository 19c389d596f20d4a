"""Programs that are compared take turns, so that a machine's slow minutes fall on all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def alternate(
    turns: Mapping[str, Callable[[], T]], rounds: int, told: Callable[[int], None] = lambda done: None
) -> dict[str, list[T]]:
    """Return what each of `turns` returned in each round; `told` is called with the number of turns taken so far."""
    found: dict[str, list[T]] = {name: [] for name in turns}
    for index in range(rounds):
        for place, (name, turn) in enumerate(turns.items(), 1):
            found[name].append(turn())
            told(index * len(turns) + place)
    return found


def spread(values: Sequence[float]) -> float:
    """Return the largest of `values` over the smallest."""
    return round(max(values) / min(values), 2)


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Return how many times as fast as the others' we are: the ratio of the medians of `others` and `seconds`."""
    return statistics.median(others) / statistics.median(seconds)
