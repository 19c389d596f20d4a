"""Classification: one label, several labels or a number for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from research.objectives import checks
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Classification:
    """What a text is, told from one state of it: an encoder's first token, or a decoder's last.

    Fine-tuning as BERT's (Devlin et al., 2019, section 4.1): a tanh projection of the first token's state, then one
    onto the labels. Several examples share a row; each attends to itself alone, has positions of its own and is
    scored on its own, so that a row of them costs what a long text does.

    >>> import jax, numpy as np
    >>> record = {"tokens": np.arange(10, 20), "segments": np.array([1, 1, 1, 1, 2, 2, 2, 2, 2, 0]),
    ...           "select": np.array([0, 4, 0]), "labels": np.array([1, 0, 0]), "weights": np.array([1.0, 1.0, 0.0])}
    >>> example = Classification()(jax.random.key(0), record, None)
    >>> sorted(example.inputs)
    ['segments', 'select', 'tokens']
    >>> example.targets.tolist(), example.weights.tolist()
    ([1, 0, 0], [1.0, 1.0, 0.0])
    """

    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    """One of the labels (softmax), any of them (a sigmoid each), or a number (squared error)."""
    text: str = ""
    """Column that holds the text; empty: the first there is of text, sentence, content, ..."""
    pair: str = ""
    """Column that holds a second text, read behind the first; empty: the second of a known pair of columns, if any; a
    hyphen, -: none, though there be such columns."""
    label: str = ""
    """Column that holds the label, the list of labels (of JSON lines or Parquet: CSV has no lists), or the number; empty:
    the first there is of label, labels, ..."""
    labels: tuple[str, ...] = ()
    """Names of the labels, in the order of their ids, which data may have instead of them (0, 1, ...); empty: those
    found in the data, in sorted order."""
    per_row: int = 16
    """Most examples that share a row; 1: none, so that rows are batches of examples as elsewhere."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder", "decoder")
    head: ClassVar[HeadKind] = "sequence"
    needs: ClassVar[tuple[str, ...]] = ()
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("text", "pair", "label")

    @property
    def paired(self) -> bool:
        """Whether two texts are read, not one."""
        return self.pair not in ("", "-")

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field or the length of rows cannot work."""
        checks.row(self, length, 3, vocabulary)
        checks.within("per_row", self.per_row, 1, length)
        checks.distinct("labels", self.labels)
        if self.labels and self.problem == "regression":
            raise UserError("objective.labels are names, but a regression has numbers: leave them out")
        if len(self.labels) == 1 and self.problem == "single_label":
            raise UserError(f"objective.labels has {self.labels[0]} alone: there is nothing to tell apart")

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(length, 0, self.per_row)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example of a row of T tokens; nothing is random.

        Returns:
            inputs: tokens and segments, int32[T] each, types int32[T] where texts are pairs, and select int32[K], the
                position of each example's state.
            targets: int32[K] ids of labels; float32[K, N] of 0 and 1 where there may be several; float32[K, 1] numbers.
            weights: float32[K], 0 where a row has fewer examples.
        """
        inputs = {name: record[name] for name in ("tokens", "segments", "types", "select") if name in record}
        return Example(inputs, record["labels"], record["weights"])
