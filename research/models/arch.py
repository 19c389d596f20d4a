"""What a transformer is, in numbers: one frozen dataclass that BERT, RoBERTa, GPT-2, T5 and BART fill differently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from research.types import HeadKind, Structure, UserError


@dataclass(frozen=True)
class Arch:
    """Shape of one transformer; a field exists only because a supported published checkpoint needs it."""

    family: Literal["bert", "roberta", "gpt2", "t5", "bart"] = "bert"
    """Whose published layout, initialisation and checkpoint names apply."""
    structure: Structure = "encoder"
    """Which stacks there are: encoder, decoder, or both with cross-attention."""
    vocab_size: int = 0
    """Rows of the token embedding; 0: as many as the tokenizer has ids."""
    width: int = 128
    """D: size of the residual stream."""
    layers: int = 2
    """Blocks of the encoder, or of the decoder where there is no encoder."""
    decoder_layers: int = 0
    """Blocks of the decoder of an encoder-decoder; 0: as many as `layers`."""
    heads: int = 4
    """H: attention heads per block."""
    head_width: int = 0
    """Size of one head; 0: width / heads (T5's larger models differ)."""
    mlp_width: int = 512
    """Size of the hidden layer of each feed-forward block."""
    max_length: int = 512
    """Longest sequence that the position table holds, in tokens; unused by relative positions."""
    positions: Literal["learned", "relative"] = "learned"
    """Learned absolute positions, or T5's bucketed relative bias."""
    position_offset: int = 0
    """Unused rows before position 0 of the table (2 for RoBERTa and BART)."""
    relative_buckets: int = 32
    """Buckets of the relative bias (T5)."""
    relative_distance: int = 128
    """Distance in tokens from which all relative positions share one bucket (T5)."""
    types: int = 0
    """Rows of the token-type table (2 for BERT, 1 for RoBERTa, 0 for none)."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm without bias (T5)."""
    norm_epsilon: float = 1e-12
    """Added to the variance before its root is taken."""
    norm_first: bool = False
    """Normalise before each sub-layer (GPT-2, T5) rather than after it (BERT, BART)."""
    embedding_norm: bool = True
    """Normalise the sum of embeddings (BERT, RoBERTa, BART)."""
    final_norm: bool = False
    """Normalise the last block's output (GPT-2, T5)."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """Nonlinearity of the feed-forward block; `gelu` is the exact erf form."""
    gated: bool = False
    """Multiply the activation by a second projection (T5 v1.1)."""
    bias: bool = True
    """Biases in attention and feed-forward projections (all but T5)."""
    scale_attention: bool = True
    """Divide attention scores by sqrt(head_width) (all but T5)."""
    tied: bool = True
    """Use the token embedding as the output projection."""
    scale_logits: bool = False
    """Multiply the last hidden state by width ** -0.5 before a tied projection (T5 v1.0)."""
    head_transform: bool = True
    """Dense, activation and norm before the output projection (BERT, RoBERTa)."""
    head_bias: bool = True
    """A bias per vocabulary entry on the logits (BERT, RoBERTa; BART's final_logits_bias)."""
    pooler: bool = False
    """A tanh projection of the first token's state (BERT, RoBERTa); pre-training without NSP has no use for it."""
    head: HeadKind = "vocabulary"
    """What states are projected onto: the vocabulary, or labels of a whole sequence or of every token."""
    labels: int = 0
    """Rows of the projection onto labels; 0: as many as the task's data has."""
    dropout: float = 0.1
    """Rate on embeddings, attention outputs and feed-forward outputs, as the family publishes it."""
    attention_dropout: float = 0.1
    """Rate on attention probabilities."""
    activation_dropout: float = 0.0
    """Rate inside the feed-forward block, after its nonlinearity (T5, BART)."""
    final_dropout: bool = False
    """Apply `dropout` to the output of each stack too (T5)."""
    init: Literal["published", "xavier", "he", "depth"] = "published"
    """Initial weights: the family's published scheme, Xavier, He, or normal(0.02) with residual outputs scaled by
    1/sqrt(residual branches of the stack) as GPT-2's. Xavier and He leave embeddings as published."""

    @property
    def attention_width(self) -> int:
        """Return the size of all heads together: what queries, keys and values are projected to."""
        return self.heads * (self.head_width or self.width // self.heads)

    @property
    def label_bias(self) -> bool:
        """Return whether the projection onto labels has a bias: all but a decoder's for sequences, which is GPT-2's."""
        return self.head == "tokens" or self.structure == "encoder"

    @property
    def encoder_layers(self) -> int:
        """Return the number of blocks in the encoder, 0 where there is none."""
        return 0 if self.structure == "decoder" else self.layers

    @property
    def depth(self) -> int:
        """Return the number of blocks in the decoder, 0 where there is none."""
        if self.structure == "encoder":
            return 0
        return (self.decoder_layers or self.layers) if self.structure == "encoder-decoder" else self.layers


def with_head(arch: Arch, head: HeadKind, labels: int = 0) -> Arch:
    """Return `arch` with the published head of its family for labels in place of the one for the vocabulary.

    What is no transformer, and has no other head, is returned as it is.

    An encoder tells a sequence by its first token's state through the pooler, a decoder by its last token's state.
    """
    if head == "vocabulary":
        return replace(arch, head=head, labels=0) if isinstance(arch, Arch) else arch
    pooler = head == "sequence" and arch.structure == "encoder"
    bare = {"tied": True, "scale_logits": False, "head_transform": False, "head_bias": False}
    return replace(arch, head=head, labels=labels, pooler=pooler, **bare)


def base(arch: Arch) -> Arch:
    """Return `arch` as its published base checkpoint counts it: no head before the vocabulary, but BERT's pooler.

    Presets describe the model that is pre-trained: BERT and RoBERTa with the masked-LM head and, as nothing predicts
    the next sentence, without a pooler. An untied output projection (T5 v1.1) is part of the published count and stays.
    """
    return replace(arch, head_transform=False, head_bias=False, pooler=arch.family in ("bert", "roberta"))


def validate(arch: Arch) -> Arch:
    """Return `arch` if a transformer of this shape can be built; nothing is allocated.

    Raises:
        UserError: A size that is not positive, a width that its heads do not divide, a rate outside [0, 1), or fields
            that contradict one another; the message names the field and what it may be.
    """
    for name in ("width", "layers", "heads", "mlp_width", "max_length"):
        if getattr(arch, name) < 1:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must be at least 1")
    for name in ("vocab_size", "decoder_layers", "head_width", "position_offset", "types", "labels"):
        if getattr(arch, name) < 0:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must not be negative")
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        if not 0 <= getattr(arch, name) < 1:
            raise UserError(f"arch.{name} is {getattr(arch, name)}: it must be at least 0 and less than 1")
    if not arch.head_width and arch.width % arch.heads:
        raise UserError(f"arch.width {arch.width} is not divisible by arch.heads {arch.heads}: change one of them")
    if not arch.norm_epsilon > 0:
        raise UserError(f"arch.norm_epsilon is {arch.norm_epsilon}: it must be greater than 0")
    if arch.decoder_layers and arch.structure != "encoder-decoder":
        raise UserError(f"arch.decoder_layers is for encoder-decoders: set arch.layers for this {arch.structure}")
    if arch.positions == "relative" and (arch.relative_buckets < 4 or arch.relative_buckets % 2):
        raise UserError(f"arch.relative_buckets is {arch.relative_buckets}: it must be even and at least 4")
    if arch.positions == "relative" and arch.relative_distance <= arch.relative_buckets // 2:
        raise UserError(
            f"arch.relative_distance {arch.relative_distance} must exceed half of arch.relative_buckets "
            f"{arch.relative_buckets}: raise it"
        )
    if arch.head != "vocabulary" and arch.structure == "encoder-decoder":
        raise UserError(
            f"arch.head {arch.head} is for encoders and decoders: an encoder-decoder writes labels as text, with the "
            "objective seq2seq"
        )
    if arch.labels and arch.head == "vocabulary":
        raise UserError(f"arch.labels is {arch.labels}, but arch.head is vocabulary: set it to sequence or tokens")
    if arch.scale_logits and not arch.tied:
        raise UserError("arch.scale_logits is for a tied output projection: set arch.tied or unset arch.scale_logits")
    return arch
