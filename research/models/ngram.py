"""N-gram language models: the configuration, and probabilities from tables of n-grams that back off to shorter ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from research.models import counts
from research.types import HeadKind, Structure, UserError

Smoothing = Literal[
    "maximum-likelihood", "add-k", "jelinek-mercer", "absolute-discounting", "kneser-ney", "modified-kneser-ney"
]


@dataclass(frozen=True)
class Ngram:
    """What an n-gram model is estimated as (Chen and Goodman, 1998)."""

    order: int = 5
    """n: a word is told from the n - 1 before it; at most as many as the longest document has."""
    smoothing: Smoothing = "modified-kneser-ney"
    """How n-grams that the text does not have get their probability; all but the first two interpolate with the order
    below, down to the uniform distribution. Jelinek-Mercer fits its weights on the validation split."""
    k: float = 1.0
    """What add-k adds to every count."""
    cache: float = 0.0
    """Weight of the words read last in the mixture (Kuhn and De Mori, 1990); 0: no cache."""
    cache_sizes: tuple[int, ...] = (100, 500)
    """Tokens, ends of sentences among them, that caches hold which share this weight: several let what was read last
    count more, as in Mikolov et al. (2011). They are not emptied between documents."""
    vocab_size: int = 0
    """Words that can be told apart; 0: as many as the tokenizer has ids."""
    arpa: str = ""
    """ARPA file that probabilities are read from, in the tokenizer's spellings; empty: estimated of the text."""

    structure: ClassVar[Structure] = "decoder"
    head: ClassVar[HeadKind] = "vocabulary"
    labels: ClassVar[int] = 0
    positions: ClassVar[str] = "none"


def validate(ngram: Ngram) -> Ngram:
    """Return `ngram` if such a model can be estimated.

    Raises:
        UserError: A field outside of what it may be; the message names both.
    """
    if ngram.order < 1:
        raise UserError(f"arch.order is {ngram.order}: it must be at least 1, which is single words without a history")
    if ngram.smoothing not in Smoothing.__args__:
        raise UserError(f"arch.smoothing is {ngram.smoothing!r}: it must be one of {', '.join(Smoothing.__args__)}")
    if not 0 < ngram.k < np.inf:
        raise UserError(f"arch.k is {ngram.k}: it must be above 0 (maximum-likelihood adds nothing)")
    if not 0 <= ngram.cache < 1:
        raise UserError(f"arch.cache is {ngram.cache}: it must be at least 0 and less than 1")
    if not ngram.cache_sizes or min(ngram.cache_sizes) < 1:
        raise UserError(f"arch.cache_sizes is {ngram.cache_sizes}: give sizes of at least 1 (arch.cache 0: none)")
    if ngram.vocab_size < 0:
        raise UserError(f"arch.vocab_size is {ngram.vocab_size}: it must not be negative")
    for name in ("order", "smoothing", "k") if ngram.arpa else ():
        if (value := getattr(ngram, name)) != getattr(Ngram, name):
            raise UserError(f"arch.{name} is {value!r}, but arch.arpa has its own: leave out the one or the other")
    return ngram


class Level(NamedTuple):
    """The n-grams of one order; see `research.models.counts` for the keys."""

    keys: np.ndarray  # int64[M], sorted and distinct; order 1: 0 to V - 1
    log_probs: np.ndarray  # float32[M]: natural logarithms, what shorter n-grams add included
    backoffs: np.ndarray  # float32[M]: logarithms of what histories leave to shorter ones; float32[0] at the top


@dataclass(frozen=True, eq=False)
class NgramModel:
    """A back-off model: a seen n-gram has its own probability, any other its history's weight times the shorter one's.

    Every smoothing comes to this, interpolated ones too, and it is what ARPA files hold. A document begins with
    `<s>`, for which `eos` stands in histories; `<s>` itself is never predicted.
    """

    levels: tuple[Level, ...]
    eos: int
    cache: float = 0.0
    cache_sizes: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # what it was made from and how; JSON

    @property
    def arch(self) -> Ngram:
        """Return what this is a model of, as far as the tables tell."""
        return Ngram(order=self.order, cache=self.cache, cache_sizes=self.cache_sizes or (1,), vocab_size=self.size)

    @property
    def order(self) -> int:
        """Return n."""
        return len(self.levels)

    @property
    def size(self) -> int:
        """Return V."""
        return len(self.levels[0].keys)

    @property
    def parameters(self) -> int:
        """Return how many n-grams of all orders there are."""
        return sum(int(np.isfinite(level.log_probs).sum()) for level in self.levels)

    def score(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
        """Return float64[N]: the natural-log probability of each of `tokens` int[N] after those before it.

        A document begins at the first token, where `starts` uint8[N] is 1, and after `eos`. The cache holds the tokens
        before, in whatever document. Memory does not grow with N but for the result.

        Raises:
            UserError: A token's id is outside the vocabulary.
        """
        found = np.empty(len(tokens))
        overlap = max(self.order - 1, *(self.cache_sizes if self.cache else ()), 0)
        for piece in counts.pieces(len(tokens)):
            window = slice(max(0, piece.start - overlap), piece.stop)
            part = self._checked(tokens[window])
            values = self._log_probs(part, None if starts is None else starts[window])
            if self.cache:
                first = int(window.start == 0)  # which has nothing before it, so that the cache has no say
                values[first:] = _mixed(values[first:], recent(part, self.cache_sizes)[first:], self.cache)
            found[piece] = values[piece.start - window.start :]
        return found

    def perplexity(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> float:
        """Return the perplexity of `tokens` int[N], `eos` included as in the published figures."""
        return float(np.exp(-self.score(tokens, starts).mean()))

    def next_log_probs(self, context: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float64[V]: the natural-log probability of every token after `context`, all that was read before it.

        `context` int[T] begins a document, as does what follows an `eos` in it: the last n - 1 tokens count, and all of
        them for the cache. -inf for ids that are never predicted.
        """
        context = self._checked(np.asarray(context, np.int64))
        tables = [level.keys for level in self.levels]
        read = np.append(context[max(0, len(context) - self.order + 1) :], self.eos)  # any word will do for the last
        found = self.levels[0].log_probs.astype(np.float64)
        histories = [int(each[-1]) for each, _ in counts.matches(tables, read, None, self.size, self.eos)]
        for shorter, level, history in zip(self.levels, self.levels[1:], histories[1:], strict=False):
            if history >= 0:
                first, last = np.searchsorted(level.keys, np.array([history, history + 1]) * np.int64(self.size))
                found += shorter.backoffs[history]
                found[level.keys[first:last] - history * np.int64(self.size)] = level.log_probs[first:last]
        if self.cache and len(context):
            lasts = [context[-size:] for size in self.cache_sizes]
            held = [np.bincount(last, minlength=self.size) / len(last) for last in lasts]
            found = _mixed(found, np.mean(held, 0), self.cache)
        return found

    def sample(self, draw: np.random.Generator, context: Sequence[int] = (), most: int = 100) -> list[int]:
        """Return up to `most` tokens drawn one after the other to follow `context`; `eos` ends them."""
        read = list(context)
        for _ in range(most):
            scores = self.next_log_probs(read)
            read.append(int(np.argmax(scores + draw.gumbel(size=len(scores)))))
            if read[-1] == self.eos:
                break
        return read[len(context) :]

    def _log_probs(self, tokens: np.ndarray, starts: np.ndarray | None) -> np.ndarray:
        """Return float64[T] without the cache; the n - 1 first ones as if a document began there."""
        tables = [level.keys for level in self.levels]
        found = np.zeros(len(tokens))
        for n, (histories, rows) in enumerate(counts.matches(tables, tokens, starts, self.size, self.eos), 1):
            if n > 1:
                known = histories >= 0
                found[known] += self.levels[n - 2].backoffs[histories[known]]
            seen = rows >= 0
            found[seen] = self.levels[n - 1].log_probs[rows[seen]]
        return found

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens, np.int64)
        outside = (tokens < 0) | (tokens >= self.size)
        if outside.any():
            raise UserError(f"token id {tokens[outside][0]} is outside the n-gram model's vocabulary of {self.size}")
        return tokens


def recent(tokens: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return float64[T]: the share of each of `tokens` int64[T] among the `size` before it, the mean over `sizes`.

    The places of a word, sorted, lie side by side; the first one recent enough is found by binary search.
    """
    here = np.arange(len(tokens))
    places = tokens * len(tokens) + here
    order = np.argsort(places)
    places = places[order]
    share = np.zeros(len(tokens))
    for size in sizes:
        earliest = places - np.minimum(here[order], size)
        share[order] += (here - np.searchsorted(places, earliest)) / np.clip(here[order], 1, size)
    return share / len(sizes)


def _mixed(log_probs: np.ndarray, shares: np.ndarray, weight: float) -> np.ndarray:
    """Return the logarithm of probabilities mixed with `shares`, which get `weight`."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(log_probs + np.log1p(-weight), np.log(weight * shares))
