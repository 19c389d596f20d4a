"""What the neural language models before the transformer are, in numbers: feed-forward and recurrent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from research.types import HeadKind, Structure, UserError


@dataclass(frozen=True)
class FeedForward:
    """Shape of a feed-forward language model (Bengio et al., 2003, section 2)."""

    vocab_size: int = 0
    """Words that can be told apart; 0: as many as the tokenizer has ids."""
    context: int = 4
    """Words read before the one that is predicted."""
    width: int = 100
    """D: size of a word's vector; those of the context stand side by side."""
    hidden_width: int = 200
    """Size of the hidden layer of tanh units."""
    direct: bool = True
    """Connect the words' vectors with the output besides, around the hidden layer."""
    dropout: float = 0.0
    """Rate on the words' vectors and on the hidden layer."""

    structure: ClassVar[Structure] = "decoder"
    head: ClassVar[HeadKind] = "vocabulary"
    labels: ClassVar[int] = 0
    positions: ClassVar[str] = "none"
    tied: ClassVar[bool] = False
    encoder_layers: ClassVar[int] = 0
    depth: ClassVar[int] = 1

    @property
    def state_width(self) -> int:
        """Return the size of the states that are projected onto the vocabulary."""
        return self.hidden_width + (self.context * self.width if self.direct else 0)


@dataclass(frozen=True)
class Recurrent:
    """Shape of a recurrent language model (Mikolov et al., 2010; Zaremba et al., 2014; Merity et al., 2018)."""

    cell: Literal["elman", "lstm", "gru"] = "lstm"
    """What a step computes: logistic units that read their own last output (Elman, 1990), long short-term memory
    (Hochreiter and Schmidhuber, 1997, with forget gates), or gated units (Cho et al., 2014, as cuDNN computes them)."""
    vocab_size: int = 0
    """Words that can be told apart; 0: as many as the tokenizer has ids."""
    width: int = 200
    """D: size of a word's vector, and of the last layer's output where it is tied to these."""
    hidden_width: int = 0
    """Size of the layers' outputs (of the last one only where untied); 0: width."""
    layers: int = 2
    """Recurrent layers, one above the other."""
    tied: bool = False
    """Use the words' vectors as the output projection (Press and Wolf, 2017; Inan et al., 2017)."""
    dropout: float = 0.0
    """Rate between layers, never from one step to the next (Zaremba et al., 2014)."""
    input_dropout: float = 0.0
    """Rate on the words' vectors."""
    output_dropout: float = 0.0
    """Rate on the last layer's output."""
    word_dropout: float = 0.0
    """Rate of whole words whose vectors are 0 wherever they stand in the batch (Gal and Ghahramani, 2016)."""
    weight_dropout: float = 0.0
    """Rate on the weights from one step to the next (Merity et al., 2018, section 2)."""
    variational: bool = False
    """Drop the same elements at every step of a row (Gal and Ghahramani, 2016), not others at each."""
    init_range: float = 0.1
    """Weights begin uniform between minus this and this."""

    structure: ClassVar[Structure] = "decoder"
    head: ClassVar[HeadKind] = "vocabulary"
    labels: ClassVar[int] = 0
    positions: ClassVar[str] = "none"
    encoder_layers: ClassVar[int] = 0

    @property
    def depth(self) -> int:
        """Return the number of layers."""
        return self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the size of each layer's output."""
        inner = self.hidden_width or self.width
        return (*[inner] * (self.layers - 1), self.width if self.tied else inner)

    @property
    def state_width(self) -> int:
        """Return the size of the states that are projected onto the vocabulary."""
        return self.widths[-1]


def validate(arch: FeedForward | Recurrent) -> None:
    """Refuse a shape that cannot be built.

    Raises:
        UserError: A size that is not positive or a rate outside [0, 1); the message names the field.
    """
    sizes = ("context", "width", "hidden_width") if isinstance(arch, FeedForward) else ("width", "layers", "init_range")
    for name in sizes:
        if not getattr(arch, name) > 0:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must be above 0")
    for name in ("vocab_size", "hidden_width"):
        if getattr(arch, name) < 0:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must not be negative")
    for name in rates(arch):
        if not 0 <= getattr(arch, name) < 1:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must be at least 0 and less than 1")


def rates(arch: Any) -> list[str]:
    """Return the names of the dropout rates of an architecture, also of a transformer's."""
    return [name for name, value in vars(arch).items() if name.endswith("dropout") and not isinstance(value, bool)]
