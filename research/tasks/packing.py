"""Items into rows: best-fit decreasing, in one dimension or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.types import UserError


class Placement(NamedTuple):
    """Where N items lie in rows."""

    row: np.ndarray  # int64[N]
    slot: np.ndarray  # int64[N]: which item of its row, from 0
    offset: np.ndarray  # int64[D, N]: where it begins in each dimension of its row
    count: int  # rows


def pack(sizes: Sequence[np.ndarray], capacities: Sequence[int], per_row: int) -> Placement:
    """Return rows for N items of D = 1 or 2 dimensions (a source and a target), at most `per_row` in each.

    Best-fit decreasing: the largest first, each into the row that it leaves least room in, which needs at most 11/9
    of the fewest rows and 1 more (Johnson, 1973). Of two dimensions it is the fuller one that decides, and then the
    other. The same items always give the same rows. O(N log N): on one core of a busy machine a million items of
    SST-2's lengths take 11 s in rows of 128 tokens (99.6 % of them real), a million pairs 16 s. With per_row 1, row n
    is item n.

    Args:
        sizes: int[N] of each dimension, in tokens.
        capacities: Tokens of a row in each dimension.

    Raises:
        UserError: an item is larger than a row.
    """
    sizes = [np.asarray(each, np.int64) for each in sizes]
    for each, capacity in zip(sizes, capacities, strict=True):
        if each.max(initial=0) > capacity:
            raise UserError(f"an item of {each.max()} tokens does not fit into a row of {capacity}: raise the length")
    count = len(sizes[0])
    if per_row == 1:
        row = np.arange(count)
        return Placement(row, np.zeros_like(row), np.zeros((len(sizes), count), np.int64), count)
    if len(sizes) == 1:
        found = _packed([sizes[0], np.zeros_like(sizes[0])], [capacities[0], 0], per_row)
        return found._replace(offset=found.offset[:1])
    if sizes[0].sum() * capacities[1] >= sizes[1].sum() * capacities[0]:
        return _packed(sizes, capacities, per_row)
    found = _packed(sizes[::-1], capacities[::-1], per_row)  # the fuller dimension first
    return found._replace(offset=found.offset[::-1])


def _packed(sizes: Sequence[np.ndarray], capacities: Sequence[int], per_row: int) -> Placement:
    """Return the placement of items of two dimensions, the first of which decides where a row is tight."""
    shares = [each / max(capacity, 1) for each, capacity in zip(sizes, capacities, strict=True)]
    order = np.lexsort((-(shares[0] + shares[1]), -np.maximum(*shares))).tolist()  # equals stay in the data's order
    firsts, seconds = (each.tolist() for each in sizes)
    rows, slots, starts, others = ([0] * len(order) for _ in range(4))
    rooms: list[tuple[int, int]] = []  # of each row, what is left
    used: list[int] = []  # of each row, its items
    open_rows: dict[tuple[int, int], list[int]] = {}  # by what is left
    kinds = _Rooms(capacities[0])
    for item in order:
        a, b = firsts[item], seconds[item]
        room = kinds.tightest(a, b)
        if room is None:
            found = len(rooms)
            rooms.append((capacities[0], capacities[1]))
            used.append(0)
        else:
            found = open_rows[room].pop()
            if not open_rows[room]:
                kinds.toggle(room)
        r, s = rooms[found]
        rows[item], slots[item], starts[item], others[item] = found, used[found], capacities[0] - r, capacities[1] - s
        room = rooms[found] = (r - a, s - b)
        used[found] += 1
        if used[found] < per_row and room[0]:
            waiting = open_rows.setdefault(room, [])
            if not waiting:
                kinds.toggle(room)
            waiting.append(found)
    return Placement(np.array(rows, int), np.array(slots, int), np.array([starts, others], int), len(rooms))


class _Rooms:
    """The kinds (r, s) of room that rows have left, searched in O(log R): a tree over r of the largest s."""

    def __init__(self, capacity: int) -> None:
        self.width = 1 << capacity.bit_length()
        self.largest = [-1] * (2 * self.width)
        self.kinds = [0] * self.width  # bit s of kinds[r]: some row has (r, s) left

    def toggle(self, room: tuple[int, int]) -> None:
        """Add a kind, or take it away."""
        r, s = room
        self.kinds[r] ^= 1 << s
        at, value = self.width + r, self.kinds[r].bit_length() - 1
        largest = self.largest
        while at and largest[at] != value:
            largest[at] = value
            value = max(value, largest[at ^ 1])
            at >>= 1

    def tightest(self, r: int, s: int) -> tuple[int, int] | None:
        """Return the kind of the least first and then the least second room that (r, s) fits into, if any."""
        largest, at = self.largest, self.width + r
        while largest[at] < s:
            while at & 1:  # up, until there is something to the right
                at >>= 1
                if not at:
                    return None
            at += 1
        while at < self.width:
            at = 2 * at if largest[2 * at] >= s else 2 * at + 1
        fitting = self.kinds[at - self.width] >> s
        return at - self.width, s + (fitting & -fitting).bit_length() - 1
