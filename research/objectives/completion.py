"""Completion: a decoder reads a prompt, unscored, and writes the answer: dialogue, summaries, autocompletion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from research.objectives import checks
from research.types import Example, HeadKind, Lengths, Structure

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Completion:
    """Target given prompt, for decoders: each token of the answer and its end are scored, those of the prompt are not.

    `bidirectional` lets the prompt's tokens attend to one another whatever their order, as a prefix LM's do (Raffel et
    al., 2020, section 3.2.1). Several pairs share a row.

    >>> import jax, numpy as np
    >>> record = {"tokens": np.array([10, 11, 12, 0, 20, 21, 0, 0]), "segments": np.array([1, 1, 1, 1, 2, 2, 2, 0]),
    ...           "answers": np.array([0, 0, 1, 1, 0, 1, 1, 0])}
    >>> example = Completion()(jax.random.key(0), record, None)
    >>> example.targets.tolist()
    [11, 12, 0, 20, 21, 0, 0]
    >>> example.weights.astype(int).tolist()
    [0, 1, 1, 0, 1, 1, 0]
    """

    source: str = ""
    """Column that holds the prompt; empty: the first there is of source, prompt, question, dialogue, ..."""
    target: str = ""
    """Column that holds the answer; empty: the first there is of target, completion, response, summary, ..."""
    prompt: str = "{source}\n"
    """What is read before the answer: {source} is the source and {column} any column of the record."""
    target_length: int = 64
    """Most tokens of an answer, its end token included; the prompt has what is left of data.length."""
    keep: Literal["start", "end"] = "end"
    """Which end of a source that is too long is read; of an answer it is always the start."""
    bidirectional: bool = False
    """Let the tokens of a prompt see one another whatever their order (prefix LM)."""
    per_row: int = 16
    """Most pairs that share a row; 1: none."""
    references: str = ""
    """Column that holds the texts that a generated one is compared with, where a record has it, instead of its target;
    empty: none, or, where target is empty too, the first list there is of targets, references."""

    structures: ClassVar[tuple[Structure, ...]] = ("decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("eos",)
    lookahead: ClassVar[int] = 1
    likelihood: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("source", "target", "references")

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field or the length of rows cannot work."""
        checks.row(self, length, 3, vocabulary)
        checks.within("target_length", self.target_length, 2, length - 1)
        checks.within("per_row", self.per_row, 1, length)
        checks.template("prompt", self.prompt)

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(0, length, length)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example of a row of T + 1 tokens; nothing is random.

        Returns:
            inputs: tokens and segments, int32[T] each, and prefix, bool[T], where prompts are read in both directions.
            targets: int32[T]; weights: float32[T], 1 where the next token is an answer's.
        """
        import jax.numpy as jnp

        tokens, segments, answers = (jnp.asarray(record[name]) for name in ("tokens", "segments", "answers"))
        inputs = {"tokens": tokens[:-1], "segments": segments[:-1]}
        if self.bidirectional:
            inputs["prefix"] = ((answers == 0) & (segments > 0))[:-1]
        scored = (segments[1:] > 0) & (segments[1:] == segments[:-1]) & (answers[1:] > 0)
        return Example(inputs, tokens[1:], scored.astype(jnp.float32))
