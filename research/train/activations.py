"""What a step keeps of a model's blocks between its forward and its backward pass, by arithmetic alone.

Counted in XLA's buffer assignments of whole steps on the CPU, by the shapes of what is alive at the peak. For each
token a branch of a block (attention, attention to the encoder, feed-forward) keeps 4 D: its normalised input, the
stream that its output is added to, and two statistics of its norm, written out as wide as the stream. Attention keeps
4 A: queries, keys, values and its result. Feed-forward keeps 3 F, or 2 with ReLU, whose sign is in its output. Of each
score exponential and weight are kept, and on a CPU alone the denominator, where they are many; of cuDNN's attention
nothing. What is dropped is drawn again.
"""

from __future__ import annotations

from typing import NamedTuple

from research.models.arch import Arch
from research.models.ladder import FeedForward, Recurrent

MANY = 4096  # denominators, from which XLA:CPU writes each out as often as it is divided by, but not for a mesh


class Computing(NamedTuple):
    """How a device computes a block."""

    small: int  # bytes of a number in the type of activations; scores are float32 whatever that is
    tensor: int  # devices that heads and the feed-forward block are split over, where they divide
    alone: bool  # one CPU without others, whatever the number of its cores
    fused: bool  # attention by cuDNN's kernel, which keeps no scores (`attention.fused_attend`)


class Block(NamedTuple):
    """Bytes of one block on one device."""

    input: int  # all that rematerialisation keeps
    kept: int  # for the backward pass
    working: int  # beside these, while the block's gradient is made
    bias: int  # gradients of scores for T5's relative bias, kept until those of all blocks are added up


class Stack(NamedTuple):
    """An encoder or a decoder, as the rows of one device pass it."""

    name: str
    layers: int  # of its blocks, those that gradients go through
    block: Block
    around: int  # bytes kept of embeddings and final norm


def stacks(
    arch: Arch, computing: Computing, rows: int, source: int, target: int, *, causal: bool, lowest: int
) -> list[Stack]:
    """Return the stacks of a transformer in the order of the forward pass.

    Args:
        arch: What it is.
        computing: How it is computed.
        rows: Rows that a device computes at a time.
        source: Tokens of a row that the encoder reads.
        target: Those that the decoder reads.
        causal: Whether the decoder computes the past alone (`attention.attend_past`).
        lowest: The lowest layer that is trained: blocks below it keep nothing. Those above are counted as if all of
            each were trained: a fourth too much for LoRA, twice for the head alone.
    """
    found, around = [], 4 * computing.small * arch.width * rows
    if arch.encoder_layers:
        block = _block(arch, computing, rows, source, [(source, source)])
        found.append(Stack("encoder", _keeping(arch.encoder_layers, 1, lowest), block, around * source))
    if arch.depth:
        own = past(target) if causal else [(target, target)]
        block = _block(arch, computing, rows, target, own, source if arch.encoder_layers else 0)
        layers = _keeping(arch.depth, arch.encoder_layers + 1, lowest)
        found.append(Stack("decoder", layers, block, around * target))
    return found


def _keeping(layers: int, first: int, lowest: int) -> int:
    """Return how many of `layers`, the first of this number, gradients go through: one at least is computed."""
    return min(layers, max(1, first + layers - lowest))


def _block(
    arch: Arch, computing: Computing, rows: int, length: int, own: list[tuple[int, int]], source: int = 0
) -> Block:
    """Return what a block keeps of rows of `length`, whose attention to itself is of these (queries, keys)."""
    small, tensor, alone, fused = computing
    ways = tensor if arch.heads % tensor == 0 else 1
    heads, inner = rows * arch.heads // ways, arch.attention_width / ways
    wide = arch.mlp_width / (tensor if arch.mlp_width % tensor == 0 else 1)
    hidden = (3 - (arch.activation == "relu") + 2 * arch.gated) * wide
    branches = 3 if source else 2
    narrow = branches * 4 * arch.width + 4 * inner + (2 * inner if source else 0) + hidden
    tokens = rows * length
    kept = small * (tokens * narrow + 2 * inner * rows * source)
    across = [(length, source)] if source else []
    own, across = ([], []) if fused else (own, across)
    for queries, keys in own + across:
        kept += 4 * heads * queries * keys * (3 if alone and heads * queries >= MANY else 2)
    scores = 4 * heads * sum(queries * keys for queries, keys in own)
    working = small * tokens * 4 * arch.width + max(small * tokens * wide, scores - small * tokens * hidden)
    bias = scores if arch.positions == "relative" else 0
    return Block(small * tokens * arch.width, int(kept), int(working), int(bias))


def past(tokens: int) -> list[tuple[int, int]]:
    """Return the queries and keys of each part of causal attention to `tokens`; see `attention.attend_past`."""
    from research.models.attention import past_part

    size = past_part(tokens)
    stops = [min(start + size, tokens) for start in range(0, tokens, size)]
    return [(stop - start, stop) for start, stop in zip(range(0, tokens, size), stops, strict=True)]


def ladder(arch: FeedForward | Recurrent, small: int) -> int:
    """Return the bytes that a token keeps for its backward pass in a model that is no transformer.

    A recurrent layer keeps its inputs, the inputs' part of its gates and its outputs, and all that a step computes.
    """
    if isinstance(arch, FeedForward):
        return small * (arch.context * arch.width * (3 + arch.direct) + 3 * arch.hidden_width)
    from research.models.recurrent import GATES

    inputs = (arch.width, *arch.widths[:-1])
    gates = GATES[arch.cell]
    sizes = zip(inputs, arch.widths, strict=True)
    return sum(2 * small * fan_in + 4 * (4 * gates + 4) * width for fan_in, width in sizes)
