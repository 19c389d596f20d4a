"""Counts of n-grams in sorted arrays, whose keys are a history's row in the table of the order before, and a word.

Rows are ids: the history `a b` of `a b c` is the row of `a b` among the bigrams, and the key of `a b c` is that row
times V plus c. A table is its keys, sorted, so that a look-up is a binary search, the successors of a history lie
side by side, and the table of single words is all V of them: row and word are one.

A document's history begins with one `<s>`, for which the id of the end-of-sentence token stands, as it has no other
use in a history: what a history would have before that token is never looked at.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from research.types import UserError

CHUNK = 1 << 21  # tokens or rows worked on at once: about 100 MB of keys, their order and what is looked up
ROWS = np.iinfo(np.int32).max
TOKENS = np.iinfo(np.uint32).max
BYTES = 40  # of memory that an n-gram takes at most, from counts to probabilities (experiments/bench_ngram.py)


class Counts(NamedTuple):
    """The n-grams of one order in a text."""

    keys: np.ndarray  # int64[M], sorted and distinct
    counts: np.ndarray  # uint32[M]


def count(
    tokens: np.ndarray, starts: np.ndarray | None, order: int, size: int, eos: int, room: int | None = None
) -> list[Counts]:
    """Return the n-grams of the orders 1 to `order` in `tokens` int[N]; documents begin where `starts` uint8[N] is 1.

    Orders that the text is too short for are left out: there are as many as its longest document with `<s>` has words.

    What is held in memory is the tables. Between two orders every token has one number, the row of the n-gram that it
    ends, which is written to a temporary file (4 bytes a token, read and written from end to end): to look it up anew
    would be a chain of n binary searches for every token and order. An order is two passes: sorted chunks of keys are
    merged, those of like size first, so that a key is moved a logarithmic number of times; then rows are looked up.

    Args:
        size: V: ids run from 0 to V - 1.
        eos: The id that ends a document, and stands for `<s>` before its first token.
        room: Bytes of memory that the model may take; None: not looked at.

    Raises:
        UserError: An id is not below `size`; there are more tokens or n-grams than the tables can number, or than there
            is room for in memory or among temporary files.
    """
    total = len(tokens)
    if total > TOKENS:
        raise UserError(f"{total:,} tokens are more than {TOKENS:,}: count a part of the text")
    single = np.zeros(size, np.int64)
    for piece in pieces(total):
        part = np.asarray(tokens[piece], np.int64)
        if part.size and not 0 <= part.min() <= part.max() < size:
            wrong = part.max() if part.min() >= 0 else part.min()
            raise UserError(f"token id {wrong} is outside a vocabulary of {size}")
        single += np.bincount(part, minlength=size)
    found = [Counts(np.arange(size, dtype=np.int64), single.astype(np.uint32))]
    if order == 1 or not total:
        return found
    with tempfile.TemporaryFile() as file:
        _reserve(file, total * np.dtype(np.int32).itemsize)
        rows = np.memmap(file, np.int32, "w+", shape=(total,))
        for piece in pieces(total):
            rows[piece] = tokens[piece]
        for n in range(2, order + 1):
            _check_room(found, n, room)
            runs: list[Counts] = []
            for _, keys in _keys(tokens, starts, rows, n, size, eos):
                _push(runs, _distinct(keys))
            while len(runs) > 1:
                runs.append(_merge(runs.pop(-2), runs.pop()))
            if not len(runs[0].keys):
                break
            found.append(runs[0])
            if len(runs[0].keys) > ROWS:
                raise UserError(f"more than {ROWS:,} {n}-grams: lower ngram.order or count a part of the text")
            if n < order:
                for piece, keys in _keys(tokens, starts, rows, n, size, eos):
                    rows[piece] = lookup(runs[0].keys, keys)
        del rows
    return found


def lookup(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return int32[T]: the row of each of `keys` int64[T] in the sorted `table` int64[M], -1 where it has none."""
    if not len(table):
        return np.full(len(keys), -1, np.int32)
    if len(table) < CHUNK // 16 or len(keys) < 2:
        return _found(table, keys)
    order = np.argsort(keys)  # searches in rising order meet what the last one left in the processor's cache
    rows = np.empty(len(keys), np.int32)
    rows[order] = _found(table, keys[order])
    return rows


def matches(
    tables: Sequence[np.ndarray], tokens: np.ndarray, starts: np.ndarray | None, size: int, eos: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for the orders 1 to n, (histories, rows), both int32[T]; -1 where the table has none.

    `rows` are those of the n-grams that the `tokens` int[T] end, in `tables`; `histories` those of the n - 1 tokens
    before each, in the table of the order before (0 for order 1). A history that would reach past `<s>` has none.
    """
    words = np.asarray(tokens, np.int64)
    first = boundaries(words, starts, eos)
    rows = words.astype(np.int32)
    yield np.zeros(len(rows), np.int32), rows
    for n, table in enumerate(tables[1:], 2):
        histories = _histories(rows, -1, first, n, eos)
        rows = lookup(table, np.where(histories < 0, -1, histories * np.int64(size) + words))
        yield histories, rows


def boundaries(tokens: np.ndarray, starts: np.ndarray | None, eos: int, before: int | None = None) -> np.ndarray:
    """Return bool[T]: where `<s>` comes before a token: at a document's start, after `eos`, and at the first token.

    `before` is the token before the first of them where there is one.
    """
    first = np.empty(len(tokens), bool)
    first[:1] = before is None or before == eos
    first[1:] = tokens[:-1] == eos
    return first if starts is None else first | (np.asarray(starts) != 0)


def suffixes(tables: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Return int32[M] for each order: the row, in the order before, of every n-gram without its first word.

    It is always there: whatever ends in an n-gram ends in the shorter one. Single words get 0, the empty n-gram's row.
    """
    found = [np.zeros(size, np.int32)]
    for n, table in enumerate(tables[1:], 2):
        links = np.empty(len(table), np.int32)
        for piece in pieces(len(table)):
            histories, words = np.divmod(table[piece], size)
            links[piece] = words if n == 2 else lookup(tables[n - 2], found[-1][histories] * np.int64(size) + words)
        found.append(links)
    return found


def sums(keys: np.ndarray, values: np.ndarray, size: int, histories: int, of: np.ndarray | None = None) -> np.ndarray:
    """Return float64[histories]: the sum over each history's successors of their `values` [M], at least 0.

    Given `of`, the sum of `of[value]` instead, where larger values count as its last.
    """
    total = np.zeros(histories)
    for piece in pieces(len(keys)):
        history = keys[piece] // size
        part = values[piece] if of is None else of[np.minimum(values[piece], len(of) - 1)]
        first = int(history[0])  # they are sorted
        added = np.bincount(history - first, weights=part)
        total[first : first + len(added)] += added
    return total


def pieces(total: int, chunk: int = 0) -> Iterator[slice]:
    """Yield slices of at most `chunk`, or else CHUNK, that cover 0 to `total`."""
    chunk = chunk or CHUNK
    for start in range(0, total, chunk):
        yield slice(start, min(start + chunk, total))


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the place of a file at once: a disk that is full kills the process that writes into a mapped file."""
    if not hasattr(os, "posix_fallocate"):  # as on macOS
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # some file systems cannot
            return
        raise UserError(
            f"no room for {size / 1e6:,.0f} MB of temporary files in {tempfile.gettempdir()} ({error.strerror}): set "
            "TMPDIR to another folder"
        ) from None


def _check_room(found: Sequence[Counts], n: int, room: int | None) -> None:
    """Refuse order `n` where it takes more than `room`, taken to have as many n-grams as the order before, or more."""
    needed = BYTES * (sum(len(table.keys) for table in found) + (len(found[-1].keys) if n > 2 else 0))
    if room is not None and needed > room:
        raise UserError(
            f"n-grams of up to {n} words take more than {needed / 1e9:.1f} GB and {room / 1e9:.1f} are free: lower "
            "arch.order or count a part of the text"
        )


def _keys(tokens, starts, rows, n, size, eos) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the key of the n-gram that each token ends, -1 where `<s>` is too near, from the rows of the order before.

    The rows of a piece may be written before the next is asked for: the last of them is remembered.
    """
    last, before = -1, None
    for piece in pieces(len(tokens)):
        words = np.asarray(tokens[piece], np.int64)
        first = boundaries(words, None if starts is None else starts[piece], eos, before)
        own = np.asarray(rows[piece])
        histories = _histories(own, last, first, n, eos)
        last, before = int(own[-1]), int(words[-1])
        yield piece, np.where(histories < 0, -1, histories * np.int64(size) + words)


def _histories(rows: np.ndarray, last: int, first: np.ndarray, n: int, eos: int) -> np.ndarray:
    """Return int32[T]: the row of the n - 1 tokens before each, which is what ends one earlier, within a document."""
    histories = np.empty(len(rows), np.int32)
    histories[:1] = last
    histories[1:] = rows[:-1]
    histories[first] = eos if n == 2 else -1
    return histories


def _found(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    at = np.searchsorted(table, keys)
    at[at == len(table)] = 0
    return np.where(table[at] == keys, at, -1).astype(np.int32)


def _distinct(keys: np.ndarray) -> Counts:
    """Return the distinct ones of `keys` and how often each occurs; the negative ones are left out."""
    keys = np.sort(keys[keys >= 0])
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    return Counts(keys[firsts], np.diff(firsts, append=len(keys)).astype(np.uint32))


def _push(runs: list[Counts], run: Counts) -> None:
    """Add a run to the stack and merge those at its top as long as the lower one is not much longer."""
    runs.append(run)
    while len(runs) > 1 and len(runs[-2].keys) < 2 * len(runs[-1].keys):
        runs.append(_merge(runs.pop(-2), runs.pop()))


def _merge(large: Counts, small: Counts) -> Counts:
    """Return the keys of both and their counts added; `large.counts` is overwritten."""
    if not len(large.keys):
        return small
    at = np.searchsorted(large.keys, small.keys)
    same = large.keys[np.minimum(at, len(large.keys) - 1)] == small.keys
    large.counts[at[same]] += small.counts[same]
    into = at[~same]
    into += np.arange(len(into))  # each moves by the new ones before it
    old = np.ones(len(large.keys) + len(into), bool)
    old[into] = False
    merged = Counts(np.empty(len(old), np.int64), np.empty(len(old), np.uint32))
    for both, ours, theirs in zip(merged, large, small, strict=True):
        both[old], both[into] = ours, theirs[~same]
    return merged
