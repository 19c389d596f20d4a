"""Counting: the n-grams that dictionaries have, whatever the chunks; links lead to what lacks the first word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models import counts
from research.models.counts import count, lookup, matches, suffixes, sums
from research.types import UserError
from tests.models.ngram_oracle import BEGIN, documents, histories, ngrams

V, EOS = 5, 2
texts = st.lists(st.integers(0, V - 1), max_size=60)
streams = texts.flatmap(
    lambda text: st.tuples(
        st.just(np.array(text, np.uint16)),
        st.none() | st.lists(st.integers(0, 1), min_size=len(text), max_size=len(text)).map(np.uint8),
    )
)


def chunked(monkeypatch, size):
    monkeypatch.setattr(counts, "CHUNK", size)


def spelled(tables, n, rows):
    """The words of rows of order n, `<s>` where the end of a sentence comes first."""
    found = []
    for row in rows:
        words = []
        for at in range(n - 1, -1, -1):
            row, word = divmod(int(tables[at].keys[row]), V)
            words.insert(0, word)
        found.append(tuple([BEGIN if n > 1 and words[0] == EOS else words[0], *words[1:]]))
    return found


@settings(max_examples=60, deadline=None)
@given(streams, st.integers(1, 5), st.sampled_from([1, 2, 3, 7, 1 << 21]))
def test_counts_are_those_of_dictionaries_in_chunks_of_any_size(stream, order, chunk):
    tokens, starts = stream
    with pytest.MonkeyPatch.context() as monkeypatch:
        chunked(monkeypatch, chunk)
        tables = count(tokens, starts, order, V, EOS)
        links = suffixes([table.keys for table in tables], V)
    expected = ngrams(tokens.tolist(), starts, EOS, order)
    longest = max(map(len, documents(tokens.tolist(), starts, EOS)), default=0)
    assert len(tables) == min(order, longest + 1)  # with the <s> before it
    assert tables[0].counts.tolist() == [expected[1][(word,)] for word in range(V)]
    for n in range(2, len(tables) + 1):
        keys, counted = tables[n - 1]
        assert (keys.dtype, counted.dtype) == (np.int64, np.uint32)
        assert (np.diff(keys) > 0).all()
        grams = spelled(tables, n, range(len(keys)))
        assert dict(zip(grams, counted.tolist(), strict=True)) == expected[n]
        shorter = spelled(tables, n - 1, links[n - 1])
        assert [gram[1:] for gram in grams] == shorter


@settings(max_examples=40, deadline=None)
@given(streams, streams, st.integers(2, 4))
def test_matches_are_the_longest_n_grams_of_the_text_that_was_counted(stream, other, order):
    tables = count(*stream, order, V, EOS)
    expected = ngrams(stream[0].tolist(), stream[1], EOS, order)
    read = histories(other[0].tolist(), other[1], EOS)
    for n, (before, rows) in enumerate(matches([t.keys for t in tables], *other, V, EOS), 1):
        for at, history in enumerate(read):
            if n == 1:
                assert (before[at], rows[at]) == (0, other[0][at])
                continue
            gram = (*history[len(history) - n + 1 :], int(other[0][at])) if n - 1 <= len(history) else None
            assert (rows[at] >= 0) == (gram in expected[n])
            if rows[at] >= 0:
                assert spelled(tables, n, [rows[at]]) == [gram]
                assert tables[n - 1].keys[rows[at]] // V == before[at]
            known = gram is not None and (n == 2 or gram[:-1] in expected[n - 1])  # every single word has a row
            assert (before[at] >= 0) == known


@pytest.mark.parametrize("chunk", [1, 4, 1 << 21])
def test_sums_over_successors_and_look_ups_do_not_depend_on_chunks(monkeypatch, chunk):
    chunked(monkeypatch, chunk)
    draw = np.random.default_rng(0)
    keys = np.unique(draw.integers(0, 40 * V, 90))
    values = draw.integers(0, 6, len(keys)).astype(np.uint32)
    expected, mapped, of = np.zeros(40), np.zeros(40), np.array([0, 0.5, 1.0, 1.5])
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        expected[key // V] += value
        mapped[key // V] += of[min(value, 3)]
    np.testing.assert_array_equal(sums(keys, values, V, 40), expected)
    np.testing.assert_allclose(sums(keys, values, V, 40, of), mapped)
    asked = draw.integers(-1, 41 * V, 300)
    rows = {key: row for row, key in enumerate(keys.tolist())}
    assert lookup(keys, asked).tolist() == [rows.get(key, -1) for key in asked.tolist()]


def test_a_memory_mapped_corpus_is_counted_as_it_lies(tmp_path):
    tokens = np.random.default_rng(1).integers(0, V, 500).astype(np.uint16)
    (tmp_path / "tokens.bin").write_bytes(tokens.tobytes())
    mapped = np.memmap(tmp_path / "tokens.bin", np.uint16, "r")
    for ours, expected in zip(count(mapped, None, 4, V, EOS), count(tokens, None, 4, V, EOS), strict=True):
        np.testing.assert_array_equal(ours.keys, expected.keys)
        np.testing.assert_array_equal(ours.counts, expected.counts)


def test_what_there_is_no_room_for_is_refused_before_it_is_counted(monkeypatch):
    tokens = np.arange(4000) % V
    assert len(count(tokens, None, 10**9, V, EOS, room=10**6)) == 6  # the longest document has five words
    with pytest.raises(UserError, match=r"n-grams of up to 3 words take more than 0\.0 GB and 0\.0 are free: lower arch\.order"):
        count(tokens, None, 10**9, V, EOS, room=400)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(counts.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for 0 MB of temporary files in .* \(No space left on device\): set TMPDIR"):
        count(tokens, None, 2, V, EOS)


def test_an_id_beyond_the_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"token id 9 is outside a vocabulary of 5"):
        count(np.array([1, 9]), None, 2, V, EOS)
