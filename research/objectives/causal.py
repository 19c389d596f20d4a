"""Causal language modelling: every token is predicted from those before it in its document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from research.objectives import checks
from research.types import Example, HeadKind, Lengths, Structure

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Causal:
    """Next-token prediction, as GPT-2 (Radford et al., 2019, section 2); nothing is random.

    A token is a target only if it is of the same document as the token it is predicted from: the first of a document
    has nothing to be predicted from, unless rows let attention cross documents (segments all 1). Special tokens such as
    the eos that ends a document are part of the text and are scored.

    >>> import jax, numpy as np
    >>> record = {"tokens": np.arange(10, 21), "segments": np.array([1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0])}
    >>> example = Causal()(jax.random.key(0), record, None)
    >>> example.inputs["tokens"].tolist()
    [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    >>> example.targets.tolist()
    [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    >>> example.weights.astype(int).tolist()
    [1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
    """

    structures: ClassVar[tuple[Structure, ...]] = ("decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ()
    lookahead: ClassVar[int] = 1
    likelihood: ClassVar[bool] = True

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if rows of `length` tokens are too short."""
        checks.row(self, length, 1, vocabulary)

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(0, length, length)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example of a row of T + 1 tokens.

        Returns:
            inputs: tokens and segments, int32[T] each.
            targets: int32[T]; weights: float32[T].
        """
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        scored = (segments[1:] > 0) & (segments[1:] == segments[:-1])
        inputs = {"tokens": tokens[:-1], "segments": segments[:-1]}
        return Example(inputs, tokens[1:], scored.astype(jnp.float32))
