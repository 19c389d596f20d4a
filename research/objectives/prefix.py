"""Prefix language modelling: a document's beginning is read in both directions, and the rest is predicted from left
to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from research.objectives import checks, spans
from research.types import Example, HeadKind, Lengths, Structure

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Prefix:
    """Prefix language model of a decoder (Raffel et al., 2020, sections 3.2.1 and 3.2.3).

    Each document of a row is split at a random point of its own, uniform over the tokens between `shortest` and
    `longest` of its length in the row and never at either end; the tokens before it attend to one another whatever
    their order. Only those after it are scored, each from nothing later than its predecessor. A document of one token
    is all prefix. Where rows let attention cross documents (segments all 1) there is one split a row.

    >>> import jax, numpy as np
    >>> record = {"tokens": np.arange(10, 21), "segments": np.ones(11, int)}
    >>> example = jax.jit(lambda key: Prefix(shortest=0.3, longest=0.6)(key, record, None))(jax.random.key(0))
    >>> example.inputs["prefix"].astype(int).tolist()
    [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    >>> example.targets.tolist()
    [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    >>> example.weights.astype(int).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    """

    shortest: float = 0.0
    """Shortest prefix as a share of its document; at least one token is read."""
    longest: float = 1.0
    """Longest prefix as a share of its document; at least one token is scored."""

    structures: ClassVar[tuple[Structure, ...]] = ("decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ()
    lookahead: ClassVar[int] = 1
    likelihood: ClassVar[bool] = True  # of the scored tokens: none is predicted from a later one

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field or the length of rows cannot work."""
        checks.row(self, length, 1, vocabulary)
        checks.interval("shortest", self.shortest, "longest", self.longest)

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(0, length, length)

    def split(self, share: float, length: int) -> int:
        """Return the size of the prefix that is `share` of a document of `length` tokens."""
        return length if length < 2 else min(max(round(share * length), 1), length - 1)

    def in_prefix(self, bits: jax.Array, segments: jax.Array) -> jax.Array:
        """Return bool[T]: which tokens of a row belong to their document's prefix, given random bits uint32[T]."""
        import jax.numpy as jnp

        size = segments.shape[0]
        head, length = spans.groups(spans.opens(segments), segments > 0)
        length = jnp.where(segments > 0, length, 0)
        least = spans.table(lambda n: self.split(self.shortest, n), size)[length]
        most = spans.table(lambda n: self.split(self.longest, n), size)[length]
        offset = bits[head] % (most - least + 1).astype(jnp.uint32)
        return (segments > 0) & (jnp.arange(size) - head < least + offset.astype(jnp.int32))

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of a row of T + 1 tokens.

        Returns:
            inputs: tokens and segments, int32[T] each; prefix, bool[T], True where every token of the same document may
                attend to.
            targets: int32[T]; weights: float32[T].
        """
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        self.check(tokens.shape[0] - 1, vocabulary)
        prefix = self.in_prefix(*spans.random(key, segments.shape[0]), segments)
        scored = (segments[1:] > 0) & (segments[1:] == segments[:-1]) & ~prefix[1:]
        inputs = {"tokens": tokens[:-1], "segments": segments[:-1], "prefix": prefix[:-1]}
        return Example(inputs, tokens[1:], scored.astype(jnp.float32))
