"""Masked language modelling: some tokens, words or spans of a row are hidden and predicted from all the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from research.objectives import checks, spans
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Masked:
    """BERT's masked language model (Devlin et al., 2019, section 3.1), by tokens, whole words or SpanBERT's spans.

    A row has K = round(rate x T) slots, of which exactly round(rate x eligible) are scored when `unit` is
    token. Words are taken whole and in random order; one that does not fit into what is left of that number is skipped
    and the next is tried, so a slot or two may stay unscored. A word ends at a special token and at the end of its
    document. Spans (Joshi et al., 2020, section 3.1) tile each row with whole words, their number drawn from the
    truncated geometric distribution whose mean is `mean_span`, and are taken in random order, the last one as far as
    its words fit; a special token also cuts a span short.

    What happens to a scored token is drawn for each token, and once a span where `unit` is span, as published.

    >>> import jax, numpy as np
    >>> from research.types import Vocabulary
    >>> ids = np.arange(30)
    >>> vocabulary = Vocabulary(size=30, pad=0, eos=1, mask=2, sentinels=np.zeros(0, int), modes=np.zeros(0, int),
    ...     special=ids < 3, continues=ids < 0, ends_sentence=ids < 0)
    >>> record = {"tokens": np.array([*range(10, 17), 1, 0, 0]), "segments": np.array([1] * 8 + [0] * 2)}
    >>> objective = Masked(rate=0.4, mask_share=1.0, random_share=0.0, keep_share=0.0)
    >>> example = jax.jit(lambda key: objective(key, record, vocabulary))(jax.random.key(0))
    >>> example.inputs["tokens"].tolist()
    [10, 11, 2, 13, 14, 2, 2, 1, 0, 0]
    >>> example.inputs["select"].tolist(), example.targets.tolist(), example.weights.astype(int).tolist()
    ([2, 5, 6, 0], [12, 15, 16, 10], [1, 1, 1, 0])
    """

    rate: float = 0.15
    """Share of the eligible tokens (neither special nor padding) that is scored."""
    mask_share: float = 0.8
    """Share of the scored tokens replaced by the mask token; the three shares sum to 1."""
    random_share: float = 0.1
    """Share of the scored tokens replaced by a random ordinary token."""
    keep_share: float = 0.1
    """Share of the scored tokens left as they are."""
    unit: Literal["token", "word", "span"] = "token"
    """What is chosen whole: a token, a word, or a span of words."""
    mean_span: float = 3.8
    """Mean length of a span in words (unit span); 3.8 of at most 10 is SpanBERT's geometric distribution, p = 0.2."""
    longest_span: int = 10
    """Longest span in words (unit span)."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("mask",)
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field, the length of rows or the vocabulary cannot work."""
        checks.row(self, length, 1, vocabulary)
        for name in ("rate", "mask_share", "random_share", "keep_share"):
            checks.within(name, getattr(self, name), 0, 1)
        if round(self.rate * length) < 1:
            raise UserError(f"objective.rate {self.rate:g} scores no token of {length} a row: raise it or data.length")
        total = self.mask_share + self.random_share + self.keep_share
        if abs(total - 1) > 1e-6:
            raise UserError(f"objective.mask_share + random_share + keep_share is {total:g}: it must be 1")
        checks.within("longest_span", self.longest_span, 1, np.inf)
        checks.within("mean_span", self.mean_span, 1, (1 + self.longest_span) / 2)
        if self.unit not in ("token", "word", "span"):
            raise UserError(f"objective.unit is {self.unit!r}: it must be token, word or span")
        if vocabulary is not None and np.all(vocabulary.special):
            raise UserError("objective Masked needs a tokenizer with ordinary tokens: all of this one's are special")

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(length, 0, round(self.rate * length))

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of a row of T tokens.

        Returns:
            inputs: tokens and segments, int32[T] each; select, int32[K], the positions scored, ascending.
            targets: int32[K]; weights: float32[K].
        """
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        length = tokens.shape[0]
        self.check(length, vocabulary)
        choose, tile, act, replace = spans.random(key, *[length] * 4)
        eligible = spans.is_eligible(tokens, segments, vocabulary)
        budget = spans.table(lambda n: round(self.rate * n), length)[jnp.sum(eligible)]

        action = spans.draw(act, np.cumsum([self.mask_share, self.random_share, self.keep_share]))
        if self.unit == "token":
            chosen = spans.pick(choose, eligible, budget)
        else:
            starts = word_starts(tokens, segments, vocabulary)
            order = spans.shuffled(choose, starts)
            if self.unit == "span":
                first = self._span_starts(tile, starts, spans.follows(eligible, segments))
                head, _ = spans.groups(first, eligible)
                order = jnp.argsort(spans.tickets(choose, first)[head], stable=True)  # a span's words side by side
                action = action[head]
            chosen = spans.pick_whole(order, starts, eligible, budget)

        ordinary = jnp.asarray(np.flatnonzero(~np.asarray(vocabulary.special)), tokens.dtype)
        random = ordinary[replace % ordinary.shape[0]]  # uneven by less than V / 2**32
        hidden = jnp.where(action == 0, vocabulary.mask, jnp.where(action == 1, random, tokens))

        select, _, scored = spans.expand(chosen.astype(jnp.int32), self.lengths(length).scored)
        select = jnp.where(scored, select, 0)
        inputs = {"tokens": jnp.where(chosen, hidden, tokens), "segments": segments, "select": select}
        return Example(inputs, tokens[select], scored.astype(jnp.float32))

    def _span_starts(self, bits: jax.Array, starts: jax.Array, joined: jax.Array) -> jax.Array:
        """Return bool[T]: the first tokens of the spans that tile the row, given those of words."""
        import jax.numpy as jnp

        length = starts.shape[0]
        lengths = 1 + spans.draw(bits, _cumulative_geometric(self.mean_span, self.longest_span))
        first = jnp.zeros(length, bool).at[0].set(True).at[jnp.cumsum(lengths)].set(True, mode="drop")  # by word
        return starts & (first[jnp.cumsum(starts) - 1] | ~joined)


def word_starts(tokens: jax.Array, segments: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Return bool[T]: the first token of a word; a special token or another document always ends the word before it."""
    import jax.numpy as jnp

    eligible = spans.is_eligible(tokens, segments, vocabulary)
    return eligible & ~(spans.follows(eligible, segments) & jnp.asarray(vocabulary.continues)[tokens])


def _cumulative_geometric(mean: float, longest: int) -> np.ndarray:
    """Return float64[longest], the cumulative probabilities of 1, ..., longest, geometric and cut off, of that mean."""
    lengths = np.arange(1, longest + 1)

    def probabilities(stop: float) -> np.ndarray:
        weights = (1 - stop) ** (lengths - 1.0)
        return weights / weights.sum()

    low, high = 0.0, 1.0  # the mean falls from (1 + longest) / 2 to 1 as the chance to stop goes from 0 to 1
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if probabilities(middle) @ lengths > mean else (low, middle)
    return np.cumsum(probabilities(high))
