"""Sequence to sequence: an encoder-decoder reads a source and writes a target, as in translation and summarisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from research.objectives import checks
from research.types import Example, HeadKind, Lengths, Structure

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Seq2Seq:
    """Target given source, for encoder-decoders (Vaswani et al., 2017; Raffel et al., 2020, section 2.4).

    Several pairs share a row; a target attends to its own past and to its own source.

    >>> import jax, numpy as np
    >>> record = {"source": np.array([10, 11, 1, 20, 1]), "source_segments": np.array([1, 1, 1, 2, 2]),
    ...           "tokens": np.array([0, 12, 0, 21]), "segments": np.array([1, 1, 2, 2]),
    ...           "targets": np.array([12, 1, 21, 1]), "weights": np.array([1.0, 1.0, 1.0, 1.0])}
    >>> example = Seq2Seq()(jax.random.key(0), record, None)
    >>> sorted(example.inputs)
    ['segments', 'source', 'source_segments', 'tokens']
    >>> example.targets.tolist()
    [12, 1, 21, 1]
    """

    source: str = ""
    """Column that holds the source; empty: the first there is of source, src, document, dialogue, ..."""
    target: str = ""
    """Column that holds the target; empty: the first there is of target, tgt, summary, ..."""
    prompt: str = "{source}"
    """What the encoder reads: {source} is the source and {column} any column of the record; T5 was told its task here
    ("translate English to German: {source}")."""
    target_length: int = 64
    """Tokens of the target part of a row, its end token included; data.length is that of the source part."""
    keep: Literal["start", "end"] = "start"
    """Which end of a source that is too long is read; of a target it is always the start."""
    begin: Literal["", "pad", "eos"] = ""
    """Token that the decoder begins with: pad as T5, eos as BART; empty: a pre-trained model's own, pad for a fresh one."""
    per_row: int = 16
    """Most pairs that share a row; 1: none."""
    references: str = ""
    """Column that holds the texts that a generated one is compared with, where a record has it, instead of its target;
    empty: none, or, where target is empty too, the first list there is of targets, references."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder-decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("eos", "pad")
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("source", "target", "references")

    @property
    def start(self) -> str:
        """The field of Vocabulary whose token the decoder begins with."""
        return self.begin or "pad"

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field or the length of rows cannot work."""
        checks.row(self, length, 2, vocabulary)
        checks.within("target_length", self.target_length, 2, float("inf"))
        checks.within("per_row", self.per_row, 1, length)
        checks.template("prompt", self.prompt)

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(length, self.target_length, self.target_length)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example of a row of S source and T target tokens; nothing is random.

        Returns:
            inputs: source and source_segments, int32[S] each; tokens, the targets shifted right within each pair, and
                segments, int32[T] each.
            targets: int32[T]; weights: float32[T].
        """
        inputs = {name: record[name] for name in ("tokens", "segments", "source", "source_segments")}
        return Example(inputs, record["targets"], record["weights"])
