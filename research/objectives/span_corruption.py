"""T5's span corruption: spans of the source are replaced by sentinels, and the target tells what each one hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from research.objectives import checks, spans
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption (Raffel et al., 2020, section 3.1.4), its random spans as in the code published with T5.

    Of a row of T ordinary tokens of one document, N = round(T x density) are hidden in S = round(N / mean_span) spans.
    Hidden and kept tokens are each cut into S non-empty parts, all partitions equally likely, which alternate, a kept
    part first. So the source has exactly T - N + S + 1 tokens and the target N + S + 1, each with its eos: 568 tokens
    become 512 and 114. Where S is 1, that span is the end of the row, unless `roll`.

    Rows with padding, special tokens or several documents stay within those lengths: of L tokens, N = round(L x
    density), spans are laid over the eligible ones alone, and S is lowered by the number of gaps between them, since a
    gap may break a span in two, each with its own sentinel. Only where there are more gaps than spans, or almost
    nothing is eligible, can the result be too long, or sentinels run out: the example is then that of the longest
    beginning of the row that fits. Sentinels count from the first in every document, whose target sees its own source
    alone; one eos ends the row's source (unless it ends with eos already) and its target.

    >>> import jax, numpy as np
    >>> from research.types import Vocabulary
    >>> ids = np.arange(30)
    >>> vocabulary = Vocabulary(size=30, pad=0, eos=1, mask=None, sentinels=np.array([29, 28, 27]),
    ...     modes=np.zeros(0, int), special=(ids < 3) | (ids > 26), continues=ids < 0, ends_sentence=ids < 0)
    >>> record = {"tokens": np.arange(10, 20), "segments": np.ones(10, int)}
    >>> objective = SpanCorruption(density=0.4, mean_span=2.0)
    >>> example = jax.jit(lambda key: objective(key, record, vocabulary))(jax.random.key(0))
    >>> example.inputs["source"].tolist()
    [10, 11, 12, 29, 15, 16, 17, 28, 1]
    >>> example.targets.tolist()
    [29, 13, 14, 28, 18, 19, 1]
    >>> example.inputs["tokens"].tolist()
    [0, 29, 13, 14, 28, 18, 19]
    """

    density: float = 0.15
    """Share of the tokens that is hidden."""
    mean_span: float = 3.0
    """Mean length of a hidden span, in tokens."""
    roll: bool = False
    """Rotate the spans by a random offset, so that beginnings of rows are hidden as often as ends; source and target
    have one token more, since the rotation may break a span in two."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder-decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("pad", "eos", "sentinels")
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    start: ClassVar[str] = "pad"

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field, the length of rows or the vocabulary cannot work."""
        checks.within("density", self.density, 0, 1)
        checks.within("mean_span", self.mean_span, 1, np.inf)
        checks.row(self, length, 2, vocabulary)
        most = self.sentinels(length)
        if vocabulary is not None and most > len(vocabulary.sentinels):
            raise UserError(
                f"span corruption makes {most} spans of a row of {length} tokens, but the tokenizer has "
                f"{len(vocabulary.sentinels)} sentinels: make spans longer or rows shorter, or add sentinels"
            )

    def hidden(self, length: int) -> int:
        """Return N: how many of `length` tokens are hidden; at least one is, and one is not."""
        return 0 if length < 2 else min(max(round(length * self.density), 1), length - 1)

    def sentinels(self, length: int) -> int:
        """Return the most sentinels that a row of `length` ordinary tokens takes: S, and one more with `roll`."""
        return self.parts(length) + (self.roll and length >= 2)

    def parts(self, length: int) -> int:
        """Return S: how many spans are hidden of `length` ordinary tokens."""
        hidden = self.hidden(length)
        return 0 if hidden == 0 else min(max(round(hidden / self.mean_span), 1), hidden, length - hidden)

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        hidden, sentinels = self.hidden(length), self.sentinels(length)
        return Lengths(length - hidden + sentinels + 1, hidden + sentinels + 1, hidden + sentinels + 1)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of a row of T tokens.

        Returns:
            inputs: source and source_segments, int32[S] each; tokens (targets shifted right, each document's beginning
                with pad) and segments, int32[T'] each.
            targets: int32[T']; weights: float32[T'].
        """
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        length, real = tokens.shape[0], jnp.sum(segments > 0)
        self.check(length, vocabulary)
        eligible = spans.is_eligible(tokens, segments, vocabulary)
        hidden, parts = (spans.table(count, length)[real] for count in (self.hidden, self.parts))
        random = spans.random(key, length, length, 1)
        noise = lay_spans(random, eligible, segments, hidden, parts, self.parts(length), self.roll)
        return render(noise, tokens, segments, vocabulary, self.lengths(length))


def lay_spans(
    random: list[jax.Array],
    eligible: jax.Array,
    segments: jax.Array,
    hidden: jax.Array,
    parts: jax.Array,
    most: int,
    roll: bool,
) -> jax.Array:
    """Return bool[T]: `hidden` eligible tokens, in `parts` spans less one for each gap between eligible tokens.

    Args:
        random: uint32[T], uint32[T] and uint32[1] of random bits.
        hidden: int32[]; all but one of the eligible tokens at most are hidden.
        parts: int32[], at most `most`; one span is laid at least.
        roll: Rotate the spans by a random offset.
    """
    import jax
    import jax.numpy as jnp

    keep, hide, turn = random
    ordinary = jnp.sum(eligible)
    gaps = jnp.maximum(ordinary - 1, 0) - jnp.sum(spans.follows(eligible, segments))
    hidden = jnp.clip(hidden, 0, jnp.maximum(ordinary - 1, 0))
    parts = jnp.minimum(jnp.maximum(parts - gaps, 1), jnp.minimum(hidden, ordinary - hidden))

    both = jnp.stack([keep, hide]), jnp.stack([ordinary - hidden, hidden])
    lengths = jax.vmap(lambda bits, items: spans.segmentation(bits, items, parts, most), out_axes=1)(*both)
    part, _, filled = spans.expand(lengths.reshape(-1), eligible.shape[0])
    noise = filled & (part % 2 == 1)  # over the eligible tokens alone, moved together
    index = jnp.cumsum(eligible) - 1
    if roll:
        size = jnp.maximum(ordinary, 1)
        index = (index + (turn[0] % size.astype(jnp.uint32)).astype(index.dtype)) % size
    return eligible & noise[index]


def render(
    noise: jax.Array,
    tokens: jax.Array,
    segments: jax.Array,
    vocabulary: Vocabulary,
    lengths: Lengths,
    mode: jax.Array | None = None,
) -> Example:
    """Return the example in which each run of `noise` is a sentinel of the source and is told in the target.

    Args:
        noise: bool[T], the tokens to hide: eligible ones only.
        lengths: Static sizes of the source and the target; the end of a row that does not fit is dropped.
        mode: int32[] or None, a token that goes before each document's source.
    """
    import jax.numpy as jnp

    real, first = segments > 0, spans.opens(segments)
    head, _ = spans.groups(first, real)
    joined = spans.follows(noise, segments)
    run = noise & ~joined
    runs = jnp.cumsum(run)
    number = runs - 1 - (runs - run)[head]  # of the sentinel, from 0 in each document
    sentinels = jnp.asarray(vocabulary.sentinels, tokens.dtype)

    in_source = jnp.where(noise, run, real) + (0 if mode is None else 1 * first)  # times 1: the sum of bools is a bool
    in_target = noise + 1 * run
    fits = (jnp.cumsum(in_source) < lengths.source) & (jnp.cumsum(in_target) < lengths.target)
    index = jnp.arange(tokens.shape[0])
    fits = real & (index < jnp.min(jnp.where(fits & (number < sentinels.shape[0]), index.size, index)))

    # The eos that ends both sides is an item after the row's last, of the document of the last token that it follows.
    last, last_hidden = jnp.max(index * fits), jnp.max(index * fits * noise)
    source_eos = jnp.any(fits) & (noise[last] | (tokens[last] != vocabulary.eos))
    target_eos = jnp.any(noise & fits)
    words = jnp.append(tokens, jnp.asarray(vocabulary.eos, tokens.dtype))
    sentinel = jnp.append(sentinels[number], 0)
    begins = jnp.append(run, False)

    item, rank, filled = spans.expand(jnp.append(in_source * fits, source_eos), lengths.source)
    source = jnp.where(begins[item], sentinel[item], words[item])
    if mode is not None:
        source = jnp.where(jnp.append(first, False)[item] & (rank == 0), mode, source)
    source = jnp.where(filled, source, vocabulary.pad)
    source_segments = jnp.where(filled, jnp.append(segments, segments[last])[item], 0)

    item, rank, filled = spans.expand(jnp.append(in_target * fits, target_eos), lengths.target)
    targets = jnp.where(begins[item] & (rank == 0), sentinel[item], words[item])
    targets = jnp.where(filled, targets, vocabulary.pad)
    target_segments = jnp.where(filled, jnp.append(segments, segments[last_hidden])[item], 0)

    inputs = {
        "source": source,
        "source_segments": source_segments,
        "tokens": spans.shift_right(targets, target_segments, vocabulary.pad),
        "segments": target_segments,
    }
    return Example(inputs, targets, filled.astype(jnp.float32))
