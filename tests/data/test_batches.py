"""Rows by index: every row once an epoch, exact shares of a mixture, and the same batch whichever way it is reached."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.batches import PERIOD, Rows, shares
from research.data.packing import Corpus
from research.types import UserError

FIELDS = ("tokens", "segments", "bytes")


def corpus(size: int, name: str = "text", document: int = 7, dtype=np.uint16) -> Corpus:
    """Tokens that number themselves (modulo 60,000), documents of `document` tokens, 3 bytes a token."""
    index = np.arange(size)
    return Corpus(
        name=name,
        tokens=(index % 60_000 + 1).astype(dtype),
        starts=(index % document == 0).astype(np.uint8),
        bytes=np.full(size, 3, np.uint16),
        meta={},
    )


def places(rows: Rows, steps: int) -> list:
    return [place for step in range(steps) for place in rows.locate(step)]


@given(
    size=st.integers(5, 400),
    length=st.integers(1, 20),
    lookahead=st.integers(0, 3),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=80, deadline=None)
def test_every_row_exactly_once_an_epoch(size, length, lookahead, batch_size, seed):
    rows = Rows([corpus(size)], length, lookahead, batch_size, seed)
    assert rows.count == -(-(size - lookahead) // length)
    seen = places(rows, -(-3 * rows.count // batch_size))[: 3 * rows.count]
    for epoch in range(3):
        part = seen[epoch * rows.count : (epoch + 1) * rows.count]
        assert {place.epoch for place in part} == {epoch}
        assert sorted(place.row for place in part) == list(range(rows.count))


@given(size=st.integers(3, 300), length=st.integers(1, 20), lookahead=st.integers(0, 2), cross=st.booleans())
@settings(max_examples=80, deadline=None)
def test_rows_hold_the_text_in_order(size, length, lookahead, cross):
    """Against a plain loop over tokens."""
    text = corpus(size)
    rows = Rows([text], length, lookahead, cross_documents=cross, pad=0)
    record = rows.take(0, rows.count + 2, with_bytes=True)
    assert {key: value.dtype.name for key, value in record.items()} == dict.fromkeys(FIELDS, "int32")
    for r in range(rows.count + 2):
        segment = 0
        for j in range(length + lookahead):
            i = r * length + j
            if r < rows.count and i < size:
                segment += j == 0 or (not cross and text.starts[i])
                expected = (text.tokens[i], segment, 3)
            else:
                expected = (0, 0, 0)
            assert tuple(int(record[key][r, j]) for key in FIELDS) == expected


def test_every_token_is_read_once_as_a_target():
    """With a lookahead of 1, targets are all tokens but the first, each in one row."""
    rows = Rows([corpus(101)], length=10, lookahead=1)
    record = rows.take(0, rows.count)
    targets = record["tokens"][:, 1:][record["segments"][:, 1:] > 0]
    assert list(targets) == list(range(2, 102))


@given(step=st.integers(0, 10**9), seed=st.integers(0, 2**60))
@settings(max_examples=30, deadline=None)
def test_any_step_can_be_looked_up_directly(step, seed):
    make = lambda: Rows([corpus(9000), corpus(4000)], 8, 1, 6, seed, weights=(3, 1))  # noqa: E731
    walked = make()
    for before in range(max(0, step - 3), step + 1):
        batch = walked.batch(before)
    direct = make().batch(step)
    assert all(np.array_equal(batch[key], direct[key]) for key in batch)
    assert make().locate(step) == walked.locate(step)


def test_batch_holds_the_rows_that_locate_names():
    rows = Rows([corpus(900), corpus(400)], 8, 1, 6, seed=3)
    everything = rows.take(0, rows.count)["tokens"]
    for step in (0, 1, 17):
        index = [place.row + (rows.counts[0] if place.source else 0) for place in rows.locate(step)]
        assert np.array_equal(rows.batch(step)["tokens"], everything[index])


def test_order_does_not_depend_on_batch_size():
    orders = [places(Rows([corpus(900), corpus(400)], 8, 1, size, 5), 120 // size) for size in (1, 6, 40)]
    assert orders[0] == orders[1] == orders[2]


def test_seeds_and_epochs_differ():
    orders = [tuple(places(Rows([corpus(800)], 8, 0, 10, seed), 10)) for seed in (0, 1)]
    assert orders[0] != orders[1]
    two_epochs = places(Rows([corpus(800)], 8, 0, 10), 20)
    assert [p.row for p in two_epochs[:100]] != [p.row for p in two_epochs[100:]]


def test_mixture_shares_are_exact_and_each_source_has_its_own_epochs():
    rows = Rows([corpus(70_000), corpus(33_333), corpus(9_000)], 10, 0, 50, weights=(6, 3, 1), seed=1)
    seen = places(rows, 2 * PERIOD // 50)
    for period in (seen[:PERIOD], seen[PERIOD:]):
        assert np.bincount([place.source for place in period]).tolist() == [6000, 3000, 1000]
    for source, count in enumerate(rows.counts):
        own = [place for place in seen if place.source == source]
        assert [place.epoch for place in own] == [i // count for i in range(len(own))]
        for epoch in range(len(own) // count):
            assert sorted(place.row for place in own[epoch * count : (epoch + 1) * count]) == list(range(count))
    early = np.bincount([place.source for place in seen[:500]], minlength=3) / 500
    assert np.abs(early - [0.6, 0.3, 0.1]).max() < 0.1  # sources are mixed, not one after another


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.floats(0.5, 10))
@settings(max_examples=80, deadline=None)
def test_shares_round_by_largest_remainder(weights, temperature):
    exact = np.array(weights) ** (1 / temperature)
    exact *= PERIOD / exact.sum()
    if exact.min() < 1:
        return
    counts = shares(weights, temperature)
    assert counts.sum() == PERIOD
    assert np.abs(counts - exact).max() < 1 + 1e-6


def test_temperature_evens_weights_out():
    assert shares((9, 1)).tolist() == [9000, 1000]
    assert shares((9, 1), temperature=2).tolist() == [7500, 2500]
    assert shares((0.07, 0.93)).tolist() == [700, 9300]


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, float("nan")), (1e6, 1)])
def test_weights_that_give_a_source_nothing_are_refused(weights):
    with pytest.raises(UserError, match="weight"):
        Rows([corpus(100), corpus(100)], 8, weights=weights).batch(0)


def test_stream_is_contiguous_from_step_to_step():
    rows = Rows([corpus(1000)], 10, 1, batch_size=7, order="stream")
    assert [place.row for place in rows.locate(3)] == [b * rows.count // 7 + 3 for b in range(7)]
    for step in range(rows.count // 7 - 1):
        now, then = rows.batch(step)["tokens"], rows.batch(step + 1)["tokens"]
        assert np.array_equal(now[:, -1], then[:, 0])
    assert rows.locate(rows.count)[0] == (0, 1, 0)


def test_streams_read_every_row_equally_often_also_where_they_do_not_divide_the_rows():
    rows = Rows([corpus(1000)], 10, 1, batch_size=7, order="stream")
    assert rows.count % 7
    first = [place.row for place in places(rows, rows.count // 7)]
    assert len(set(first)) == len(first)
    read = [place.row for place in places(rows, rows.count)]
    assert np.bincount(read).tolist() == [7] * rows.count


def test_stream_refuses_a_mixture_and_too_many_streams():
    with pytest.raises(UserError, match="reads one source"):
        Rows([corpus(100), corpus(100)], 10, order="stream")
    with pytest.raises(UserError, match="lower the batch size"):
        Rows([corpus(100)], 10, batch_size=11, order="stream")


def test_a_corpus_without_a_row_is_refused():
    with pytest.raises(UserError, match="too few"):
        Rows([corpus(1)], 10, lookahead=1)


def test_large_vocabularies_keep_their_ids():
    text = corpus(100, dtype=np.uint32)
    text.tokens[:] += 100_000
    assert Rows([text], 10).take(0, 1)["tokens"][0, 0] == 100_001


@pytest.mark.slow
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("sources", [1, 2])
def test_assembly_is_fast(tmp_path, cross, sources):
    """At least 10 million tokens/s on one core (CPU time, so that a busy machine does not fail it)."""
    corpora = []
    for s in range(sources):
        text = corpus(3_000_000, document=200)
        arrays = {}
        for key in ("tokens", "starts", "bytes"):
            path = tmp_path / f"{key}{s}"
            getattr(text, key).tofile(path)
            arrays[key] = np.memmap(path, getattr(text, key).dtype, "r")
        corpora.append(Corpus(name=f"s{s}", meta={}, **arrays))
    rows = Rows(corpora, 512, 1, 32, cross_documents=cross)
    rates = []
    for attempt in range(3):
        start = time.process_time()
        for step in range(attempt * 128, (attempt + 1) * 128):
            rows.batch(step)
        rates.append(128 * 32 * 512 / (time.process_time() - start))
    assert max(rates) > 10e6
