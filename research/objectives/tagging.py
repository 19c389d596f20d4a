"""Tagging: a label for every word, such as the names in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from research.objectives import checks
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Tagging:
    """A tag for each word, told from the state of its first token (Devlin et al., 2019, section 5.3).

    Documents longer than a row are read in windows that overlap, and each word is scored in the window where it has
    most context. Several short ones share a row, as in classification.

    >>> import jax, numpy as np
    >>> record = {"tokens": np.arange(10, 16), "segments": np.array([1, 1, 1, 2, 2, 0]),
    ...           "labels": np.array([0, 3, 0, 0, 1, 0]), "weights": np.array([0, 1, 0, 0, 1, 0.0])}
    >>> example = Tagging()(jax.random.key(0), record, None)
    >>> example.targets.tolist(), example.weights.tolist()
    ([0, 3, 0, 0, 1, 0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    """

    words: str = ""
    """Column that holds the list of words, or a text that is split at white space (CSV has no lists); empty: the first
    there is of tokens, words."""
    tags: str = ""
    """Column that holds the tags likewise; empty: the first there is of tags, ner_tags, labels, ..."""
    labels: tuple[str, ...] = ()
    """Names of the tags, in the order of their ids, which data may have instead of them (0, 1, ...); empty: those found
    in the data, O first, then in sorted order."""
    scheme: Literal["bio", "iobes"] = "bio"
    """How tags mark entities: B-X begins and I-X continues one; or also E-X ends and S-X is one of a single word.
    Tags without such a prefix (parts of speech) are scored word by word."""
    scored: Literal["first", "all"] = "first"
    """Train on the first token of each word, or on all of them; predictions are the first one's either way."""
    overlap: int = 32
    """Tokens that the windows of a long document share."""
    per_row: int = 16
    """Most documents that share a row; 1: none."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder", "decoder")
    head: ClassVar[HeadKind] = "tokens"
    needs: ClassVar[tuple[str, ...]] = ()
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("words", "tags")

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field or the length of rows cannot work."""
        checks.row(self, length, 3, vocabulary)
        checks.within("per_row", self.per_row, 1, length)
        checks.distinct("labels", self.labels)
        if not 0 <= self.overlap <= length // 2:
            raise UserError(
                f"objective.overlap is {self.overlap}: it must be between 0 and half of data.length, {length // 2}"
            )

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(length, 0, length)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example of a row of T tokens; nothing is random.

        Returns:
            inputs: tokens and segments, int32[T] each.
            targets: int32[T] ids of tags; weights: float32[T], 0 for special tokens, padding, and tokens that are not
                scored.
        """
        return Example(
            {"tokens": record["tokens"], "segments": record["segments"]}, record["labels"], record["weights"]
        )
