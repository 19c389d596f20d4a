"""Items: encoded examples, or windows of them, gathered in flat arrays and laid into rows."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from research.tasks.packing import Placement, pack

AT_ONCE = 1 << 16  # items laid at once: their index arrays are the memory that laying takes

Create = Callable[[str, np.dtype, tuple[int, ...]], np.ndarray]
"""Returns a zeroed array of a name, a dtype and a shape: in memory, or a file mapped into it."""


class Items:
    """N items: streams of numbers, one a token, and values, one an item.

    Flat arrays of 4 bytes a number: a million sentences of 25 tokens take 100 MB a stream.
    """

    def __init__(self, second: Sequence[str] = ()) -> None:
        self.second = tuple(second)  # streams along the second dimension of a row, such as a source
        self.streams: dict[str, array] = {}
        self.values: dict[str, list[Any]] = {}
        self.sizes: tuple[array, array] = (array("i"), array("i"))
        self.example = array("i")

    def __len__(self) -> int:
        return len(self.example)

    def add(self, example: int, streams: dict[str, Iterable[int]], values: dict[str, Any]) -> None:
        """Add an item of example number `example`; streams of one dimension are equally long."""
        self.example.append(example)
        size = [0, 0]
        for name, numbers in streams.items():
            stream = self.streams.setdefault(name, array("i"))
            before = len(stream)
            stream.extend(numbers)
            size[name in self.second] = len(stream) - before
        for sizes, each in zip(self.sizes, size, strict=True):
            sizes.append(each)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def pack(self, capacity: int, second: int, per_row: int) -> Placement:
        """Return where the items lie in rows of `capacity` tokens, and `second` where they have that dimension."""
        dimensions = 2 if self.second else 1
        return pack([np.asarray(each) for each in self.sizes][:dimensions], [capacity, second][:dimensions], per_row)


def lay(
    items: Items, placed: Placement, capacity: int, second: int, per_row: int, fill: dict[str, int], create: Create
) -> dict[str, np.ndarray]:
    """Return the arrays of R rows.

    Args:
        capacity, second: Tokens of a row in each dimension, L and S.
        fill: What is beyond the items in a stream, 0 where it is not said.

    Returns:
        Each stream, int32[R, L] or int32[R, S] (float32 for weights); `segments` int32[R, L] and, with a second
        dimension, `source_segments` int32[R, S]: 1, 2, ... for the items of a row; each value, [R, K] or [R, K, N];
        and `example` int32[R, K], -1 where a row has fewer items, unless a stream has that name.
    """
    rows, order = placed.count, np.argsort(placed.row, kind="stable")
    segments = ("segments", "source_segments") if items.second else ("segments",)
    flat: list[tuple[str, int, np.ndarray | None]] = [(name, d, None) for d, name in enumerate(segments)]
    flat += [(name, int(name in items.second), np.asarray(stream)) for name, stream in items.streams.items()]
    result = {}
    for name, dimension, stream in flat:
        width = (capacity, second)[dimension]
        made = result[name] = create(name, np.dtype(np.float32 if name == "weights" else np.int32), (rows, width))
        if fill.get(name):
            made[...] = fill[name]
        sizes = np.asarray(items.sizes[dimension], np.int64)
        starts = np.cumsum(sizes) - sizes
        lines = made.reshape(-1)
        for first in range(0, len(order), AT_ONCE):
            part = order[first : first + AT_ONCE]
            size = sizes[part]
            within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            at = np.repeat(placed.row[part] * width + placed.offset[dimension][part], size) + within
            if stream is None:
                lines[at] = np.repeat(placed.slot[part] + 1, size)
            else:
                lines[at] = stream[np.repeat(starts[part], size) + within]
    values = items.values if "example" in items.streams else {"example": items.example, **items.values}
    for name, each in values.items():
        found = np.asarray(each)
        found = found.astype(np.float32 if found.dtype.kind == "f" else np.int32)
        made = result[name] = create(name, found.dtype, (rows, per_row, *found.shape[1:]))
        if fill.get(name):
            made[...] = fill[name]
        made[placed.row, placed.slot] = found
    return result
