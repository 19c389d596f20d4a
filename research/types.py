"""The nouns that every room shares: rows of data, what an objective makes of them, and what a checkpoint holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax

    Array = jax.Array | np.ndarray

Structure = Literal["encoder", "decoder", "encoder-decoder"]
HeadKind = Literal["vocabulary", "sequence", "tokens"]
Split = Literal["train", "validation", "test"]

Record = dict[str, np.ndarray]
"""One host row: `tokens` int32[L] and `segments` int32[L], where L = length + lookahead, segment 0 is padding and
documents of a row count 1, 2, ... (all 1 where attention may cross documents). Rows of a task have more, which its
objective names."""


class UserError(Exception):
    """A mistake that its user can mend: one line saying what is wrong, where, and what to do.

    Commands print it without a traceback and exit with `status`.
    """

    status = 2


class Diverged(UserError):
    """A run whose loss is no longer a number: it began well, so its status is that of a failure on the way."""

    status = 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ': did you mean X?' for the nearest of the names in `known`, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f": did you mean {nearest[0]}?" if nearest else ""


class Vocabulary(NamedTuple):
    """The only thing an objective knows of a tokenizer. Arrays are numpy: they are constants of the compiled step."""

    size: int  # ids run from 0 to size - 1
    pad: int | None
    eos: int | None  # ends a document ([SEP] where a tokenizer has no eos of its own)
    mask: int | None
    sentinels: np.ndarray  # int32[N], in the order of use: <extra_id_0>, <extra_id_1>, ...
    modes: np.ndarray  # int32[3] or int32[0]: UL2's mode tokens for R ([NLU]), S ([S2S]) and X ([NLG])
    special: np.ndarray  # bool[V]: never corrupted, never drawn as a replacement
    continues: np.ndarray  # bool[V]: continues the word of the token before it
    ends_sentence: np.ndarray  # bool[V]: a full stop, question or exclamation mark


class Example(NamedTuple):
    """What every objective makes of a record."""

    inputs: dict[str, Array]  # exactly the model's keyword arguments
    targets: Array  # int32[*S]; float32[*S, N] where a task scores N labels apart, or numbers
    weights: Array  # float32[*S]; 0 = not scored


class Lengths(NamedTuple):
    """The static sizes of an objective's examples, in tokens."""

    source: int  # read by the encoder; 0 where the structure has none
    target: int  # read by the decoder; 0 where the structure has none
    scored: int  # projected onto the vocabulary: the length of `Example.targets`


class Objective(Protocol):
    """A frozen dataclass: hashable, loggable, overridable from the command line; called inside jit on one row."""

    structures: ClassVar[tuple[Structure, ...]]  # of the models that it can train
    head: ClassVar[HeadKind]  # what the last states are projected onto: the vocabulary, or a task's labels
    needs: ClassVar[tuple[str, ...]]  # fields of Vocabulary that must not be None or empty
    lookahead: ClassVar[int]  # tokens read beyond the row's length: 1 where targets are the next tokens
    likelihood: ClassVar[bool]  # every scored token is predicted from its own past: bits per byte are defined
    start: ClassVar[str]  # encoder-decoders only: the field of Vocabulary whose token the decoder begins with

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field, rows of `length` tokens or, where given, the vocabulary cannot work."""

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of `record`; pure, of static shapes, vmapped over rows by the step."""


class State(NamedTuple):
    """Everything that a checkpoint holds, and so everything that a resumed run needs."""

    step: Any  # int32[]: updates applied so far
    trainable: Any  # parameters that gradients are taken of, nested
    frozen: Any  # the others, nested; empty where all are trained
    opt_state: Any  # of the trainable ones
    averages: Any  # average of the trainable ones, or an empty tuple
    carry: Any = ()  # what each row of the last batch hands on to the next one's; empty where rows stand alone
