"""Rows by index: which tokens every step reads, as a function of (seed, step) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from research.keys import permute
from research.types import Record, UserError

if TYPE_CHECKING:
    from research.data.packing import Corpus

Order = Literal["shuffled", "stream"]

PERIOD = 10_000  # rows in which a mixture's shares are exact: weights are honoured to the hundredth of a per cent
CHUNK = 128  # steps whose rows are looked up at once, at most
SLOTS = -1  # names the permutation of a mixture's slots, where sources name theirs 0, 1, ...


class Place(NamedTuple):
    """Where a row of a batch comes from."""

    source: int
    epoch: int
    row: int


def shares(weights: Sequence[float], temperature: float = 1.0, period: int = PERIOD) -> np.ndarray:
    """Return int64[S]: how many of every `period` rows each source gives, by largest remainder; they sum to `period`.

    Weights are raised to 1/temperature and normalised: 1 keeps them, larger values even them out (Raffel et al.,
    2020, section 3.5.2; Arivazhagan et al., 2019).

    Raises:
        UserError: a weight or the temperature is not above 0, or a source would get no row at all.
    """
    if temperature <= 0 or not all(weight > 0 and np.isfinite(weight) for weight in weights):
        raise UserError(f"mixture weights and temperature must be above 0: {list(weights)}, temperature {temperature}")
    powers = np.asarray(weights, np.float64) ** (1 / temperature)
    exact = powers / powers.sum() * period
    counts = np.floor(exact + 1e-9).astype(np.int64)  # 0.07 * 10,000 is 700.0000000000001, or just below
    missing = period - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    if not counts.all():
        raise UserError(
            f"source {int(np.argmin(counts))} has less than one row in {period:,}: raise its weight, or the temperature"
        )
    return counts


@lru_cache(maxsize=8)
def _interleaved(shares: tuple[int, ...], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[PERIOD] twice, of one period: the source of each slot, and how often that source came before."""
    order = permute(np.arange(PERIOD), PERIOD, seed, SLOTS, block)
    source = np.searchsorted(np.cumsum(shares), order, side="right")
    before = np.empty(PERIOD, np.int64)
    before[np.argsort(source, kind="stable")] = np.concatenate([np.arange(share) for share in shares])
    return source, before


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one split: L = length + lookahead tokens each, of which the last `lookahead` open the next row too.

    Row r of a source of N tokens reads tokens[r * length : r * length + L]; there are ceil((N - lookahead) / length),
    and the last is padded (`pad`, segment 0). Nothing here is an iterator: any step can be looked up at any time, in
    memory that does not grow with the data. Measured at B = 32, length 512, of 20 million tokens in the page cache, on
    one core of a busy machine: 170 million tokens/s, 85 with segments of documents; from two sources 91 and 43.

    Shuffled: the n-th row of a run (n = step * B + b) belongs to epoch n // count, whatever the batch size, so that
    every row comes exactly once an epoch also where B does not divide the count. In a mixture every period of 10,000
    rows gives each source its exact share, in shuffled slots, and each source goes through its own epochs in turn.

    Stream: B contiguous streams through one source, for models that carry state from step to step: at (step, b) row
    b * count // B + step, wrapping, so that `count` steps read every row B times.
    """

    corpora: Sequence[Corpus]
    length: int
    lookahead: int = 0
    batch_size: int = 1
    seed: int = 0
    order: Order = "shuffled"
    cross_documents: bool = True
    weights: Sequence[float] | None = None
    temperature: float = 1.0
    pad: int = 0

    def __post_init__(self) -> None:
        for corpus, rows in zip(self.corpora, self.counts, strict=True):
            if rows < 1:
                raise UserError(
                    f"{corpus.name} has {len(corpus.tokens)} tokens: too few for one row that reads {self.lookahead} "
                    "beyond its end; give more text"
                )
        self._shares  # bad weights are refused now, not at the first batch
        if self.order == "stream" and len(self.corpora) != 1:
            raise UserError(f"order 'stream' reads one source, not {len(self.corpora)}: use order 'shuffled'")
        if self.order == "stream" and self.counts[0] < self.batch_size:
            raise UserError(
                f"order 'stream' needs a row for each of {self.batch_size} streams and there are {self.counts[0]}: "
                "lower the batch size or the row length"
            )

    @cached_property
    def counts(self) -> np.ndarray:
        """int64[S]: rows of each source."""
        sizes = np.array([len(corpus.tokens) for corpus in self.corpora], np.int64)
        return np.maximum(0, -(-(sizes - self.lookahead) // self.length))

    @property
    def count(self) -> int:
        """Rows of an epoch; for a mixture, of all sources together."""
        return int(self.counts.sum())

    @property
    def mixed(self) -> bool:
        """Whether these are several sources, so that an epoch in order is not what training reads."""
        return len(self.corpora) > 1

    @cached_property
    def _shares(self) -> tuple[int, ...]:
        """Rows that each source gives in a period."""
        weights = [1.0] * len(self.corpora) if self.weights is None else self.weights
        return tuple(shares(weights, self.temperature).tolist())

    def batch(self, step: int, part: slice = slice(None)) -> Record:
        """Return `tokens` and `segments`, int32[B, L], of a step (0, 1, ...); or a `part` of its rows, without the others."""
        source, _, row = self._places(step)[:, part]
        return self._read(source, row, with_bytes=False)

    def locate(self, step: int) -> list[Place]:
        """Return where each of the B rows of a step comes from, for messages that name the rows."""
        return [Place(*map(int, place)) for place in self._places(step).T]

    def take(self, start: int, stop: int, with_bytes: bool = False) -> Record:
        """Return rows start..stop-1 in their fixed order, source after source; see `pick`."""
        return self.pick(np.arange(start, stop), with_bytes)

    def pick(self, index: np.ndarray, with_bytes: bool = False) -> Record:
        """Return the rows numbered `index`, int64[N], in their fixed order, source after source, for evaluation.

        Returns:
            `tokens`, `segments` and, if asked for, `bytes` (UTF-8 bytes of text that each token stands for, 0 for
            special tokens): int32[N, L]. Rows from `count` on are all padding, so that the last batch
            has the shape of the others.
        """
        ends = np.cumsum(self.counts)
        source = np.minimum(np.searchsorted(ends, index, side="right"), len(self.corpora) - 1)
        row = np.where(index < self.count, index - (ends - self.counts)[source], len(self.corpora[-1].tokens))
        return self._read(source, row, with_bytes)

    def _places(self, step: int) -> np.ndarray:
        """Return int64[3, B]: source, epoch and row."""
        if self.order == "stream":
            count = self.counts[0]
            epoch, row = np.divmod(np.arange(self.batch_size) * count // self.batch_size + step, count)
            return np.stack([np.zeros_like(row), epoch, row])
        # A permutation costs over a millisecond however few its indices, so those of many steps are looked up at once.
        steps = max(1, min(CHUNK, 8 * int(self.counts.min()) // self.batch_size))  # few epochs of a tiny source
        chunk, at = divmod(step * self.batch_size, steps * self.batch_size)
        kept = self._kept[0]
        if kept[0] != chunk:
            first = chunk * steps * self.batch_size
            kept = self._kept[0] = (chunk, self._shuffled(np.arange(first, first + steps * self.batch_size)))
        return kept[1][:, at : at + self.batch_size]

    @cached_property
    def _kept(self) -> list[tuple[int, np.ndarray]]:
        return [(-1, np.zeros((3, 0), np.int64))]

    def _shuffled(self, index: np.ndarray) -> np.ndarray:
        """Return int64[3, N]: source, epoch and row of each of the run's rows `index`, int64[N]."""
        source = np.zeros_like(index)
        if len(self.corpora) > 1:
            source, index = self._mixed(index)
        epoch, row = np.divmod(index, self.counts[source])
        for s in range(len(self.corpora)):
            for e in np.unique(epoch[source == s]):
                chosen = (source == s) & (epoch == e)
                row[chosen] = permute(row[chosen], int(self.counts[s]), self.seed, s, int(e))
        return np.stack([source, epoch, row])

    def _mixed(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64[N] twice: the source of each row of the mixture, and how many rows that source gave before."""
        block, slot = np.divmod(index, PERIOD)
        source, before = np.empty_like(index), np.empty_like(index)
        for b in range(int(block[0]), int(block[-1]) + 1):
            chosen = block == b
            sources, ranks = _interleaved(self._shares, self.seed, b)
            source[chosen], before[chosen] = sources[slot[chosen]], ranks[slot[chosen]]
        return source, block * np.array(self._shares)[source] + before

    def _read(self, source: np.ndarray, row: np.ndarray, with_bytes: bool) -> Record:
        length = self.length + self.lookahead
        record = {"tokens": np.empty((len(row), length), np.int32), "segments": np.empty((len(row), length), np.int32)}
        if with_bytes:
            record["bytes"] = np.empty((len(row), length), np.int32)
        for s in range(len(self.corpora)):
            at, corpus = np.flatnonzero(source == s) if len(self.corpora) > 1 else slice(None), self.corpora[s]
            rows = row[at]
            if not len(rows):
                continue
            record["tokens"][at] = self._cut(corpus.tokens, rows, self.pad)
            if with_bytes:
                record["bytes"][at] = self._cut(corpus.bytes, rows, 0)
            inside = rows[:, None] * self.length + np.arange(length) < len(corpus.tokens)
            if self.cross_documents:
                record["segments"][at] = inside
            else:
                starts = self._cut(corpus.starts, rows, 0)
                starts[:, 0] = 1  # a row cut out of a document's middle begins with what is left of it
                record["segments"][at] = np.cumsum(starts, axis=1, dtype=np.int32) * inside
        return record

    def _cut(self, array: np.ndarray, rows: np.ndarray, fill: int) -> np.ndarray:
        """Return [len(rows), L] of a flat array, `fill` beyond its end; whole rows are copied, not tokens gathered."""
        length = self.length + self.lookahead
        whole = max(0, (len(array) - length) // self.length + 1)  # rows that need no filling
        strides = (self.length * array.itemsize, array.itemsize)
        windows = np.ndarray((whole, length), array.dtype, array, strides=strides)
        if rows.max() < whole:
            return windows[rows]
        result = np.full((len(rows), length), fill, array.dtype)
        result[rows < whole] = windows[rows[rows < whole]]
        for i in np.flatnonzero((rows >= whole) & (rows * self.length < len(array))):
            tail = array[rows[i] * self.length :][:length]
            result[i, : len(tail)] = tail
        return result
