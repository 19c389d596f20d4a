"""Packing: nothing is lost, nothing overflows, and hardly anything is padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.tasks.packing import pack
from research.types import UserError


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 20), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_items_lie_beside_one_another_inside_their_rows(data, capacity, second, per_row, flat):
    capacities = [capacity] if flat else [capacity, second]
    items = data.draw(st.lists(st.tuples(*(st.integers(1, c) for c in capacities)), min_size=1, max_size=60))
    sizes = [np.array(each) for each in zip(*items, strict=True)]
    placed = pack(sizes, capacities, per_row)
    assert set(placed.row) == set(range(placed.count))
    for row in range(placed.count):
        inside = np.flatnonzero(placed.row == row)
        assert sorted(placed.slot[inside]) == list(range(len(inside))) and len(inside) <= per_row
        inside = inside[np.argsort(placed.slot[inside])]
        for size, offset, limit in zip(sizes, placed.offset, capacities, strict=True):
            ends = np.cumsum(size[inside])
            assert (offset[inside] == ends - size[inside]).all() and ends[-1] <= limit
    again = pack(sizes, capacities, per_row)
    assert all((a == b).all() for a, b in zip(placed[:3], again[:3], strict=True))
    if per_row == 1:
        assert (placed.row == np.arange(len(items))).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_it_is_best_fit_decreasing(sizes):
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):  # slowly, in plain Python
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else 30) - size)
    assert pack([np.array(sizes)], [30], len(sizes) + 1).count == len(rooms)


def test_rows_are_nearly_full_in_the_dimension_that_decides():
    random = np.random.default_rng(0)
    long, short = random.integers(5, 200, 5000), random.integers(2, 9, 5000)
    for sizes in ([long, short], [short, long]):
        capacities = [512 if each is long else 64 for each in sizes]
        placed = pack(sizes, capacities, 16)
        assert long.sum() / placed.count / 512 > 0.97


def test_an_item_that_is_too_large_is_refused():
    with pytest.raises(UserError, match="an item of 9 tokens does not fit into a row of 8"):
        pack([np.array([3, 9])], [8], 4)
