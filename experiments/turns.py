"""Programs that are compared take turns, so that a machine's slow minutes fall on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

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


def seconds(make: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds that `make` takes on `arguments`."""
    started = time.perf_counter()
    make(*arguments)
    return time.perf_counter() - started


def spread(values: Sequence[float]) -> float:
    """Return the largest of `values` over the smallest."""
    return round(max(values) / min(values), 2)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how many times as fast as they are we are, the ratio of the median seconds."""
    return statistics.median(theirs) / statistics.median(ours)
