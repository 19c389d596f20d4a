"""BART's denoising: the source is the row with spans masked and sentences shuffled, the target is the row itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from research.objectives import checks, spans
from research.types import Example, HeadKind, Lengths, Structure, UserError

if TYPE_CHECKING:
    import jax

    from research.types import Record, Vocabulary


@dataclass(frozen=True)
class Denoising:
    """BART's noise (Lewis et al., 2020, section 2.2): sentence permutation, then text infilling, then token deletion.

    Infilling draws span lengths from Poisson(mean_span) until round(mask_share x eligible) tokens are masked, the last
    span cut to that number, and lays the spans over the eligible tokens in random places without overlap. Each becomes
    one mask token; a span of length 0 inserts one. A special token or the end of a document breaks a span, and each
    part becomes a mask token. Lengths count tokens, as in the paper; the code published with BART counts words.
    Insertions that would make the source longer than the row are left out.

    Special tokens and padding stay where they are in the order of the row. The target is the row as it was, special
    tokens such as eos included: they are never corrupted, but they are generated.

    >>> import jax, numpy as np
    >>> from research.types import Vocabulary
    >>> ids = np.arange(30)
    >>> vocabulary = Vocabulary(size=30, pad=0, eos=1, mask=2, sentinels=np.zeros(0, int), modes=np.zeros(0, int),
    ...     special=ids < 3, continues=ids < 0, ends_sentence=ids == 20)
    >>> record = {"tokens": np.array([10, 11, 12, 20, 13, 14, 15, 16, 20, 1]), "segments": np.ones(10, int)}
    >>> example = jax.jit(lambda key: Denoising()(key, record, vocabulary))(jax.random.key(0))
    >>> example.inputs["source"].tolist()
    [13, 14, 15, 16, 20, 2, 20, 1, 0, 0]
    >>> example.targets.tolist()
    [10, 11, 12, 20, 13, 14, 15, 16, 20, 1]
    >>> example.inputs["tokens"].tolist()
    [1, 10, 11, 12, 20, 13, 14, 15, 16, 20]
    """

    mask_share: float = 0.3
    """Share of the eligible tokens (neither special nor padding) that spans hide."""
    mean_span: float = 3.0
    """Mean length of a span in tokens: the lambda of its Poisson distribution."""
    permute_sentences: bool = True
    """Shuffle the sentences of each document."""
    delete_share: float = 0.0
    """Share of the eligible tokens that is deleted without a trace, of those not masked."""

    structures: ClassVar[tuple[Structure, ...]] = ("encoder-decoder",)
    head: ClassVar[HeadKind] = "vocabulary"
    needs: ClassVar[tuple[str, ...]] = ("pad", "eos", "mask")
    lookahead: ClassVar[int] = 0
    likelihood: ClassVar[bool] = False
    start: ClassVar[str] = "eos"

    def check(self, length: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise a UserError if a field, the length of rows or the vocabulary cannot work."""
        checks.row(self, length, 1, vocabulary)
        for name in ("mask_share", "delete_share"):
            checks.within(name, getattr(self, name), 0, 1)
        checks.within("mean_span", self.mean_span, 1, 100)
        if self.permute_sentences and vocabulary is not None and not np.any(vocabulary.ends_sentence):
            raise UserError(
                "objective.permute_sentences needs a tokenizer with a full stop, question or exclamation mark, and "
                "this one has none: turn it off or choose another tokenizer"
            )

    def lengths(self, length: int) -> Lengths:
        """Return the static sizes of the example made from a row of `length` tokens."""
        return Lengths(length, length, length)

    def __call__(self, key: jax.Array, record: Record, vocabulary: Vocabulary) -> Example:
        """Return the example that `key` makes of a row of T tokens.

        Returns:
            inputs: source and source_segments, int32[T] each; tokens (targets shifted right, each document's beginning
                with eos) and segments, int32[T] each.
            targets: int32[T], the row; weights: float32[T], 1 but for padding.
        """
        import jax.numpy as jnp

        tokens, segments = jnp.asarray(record["tokens"]), jnp.asarray(record["segments"])
        length = tokens.shape[0]
        self.check(length, vocabulary)
        most = self._most_spans(length)
        shuffle, draw, place, delete = spans.random(key, length, most, length + most, length)
        real, eligible = segments > 0, spans.is_eligible(tokens, segments, vocabulary)

        text = permuted(shuffle, tokens, segments, vocabulary) if self.permute_sentences else tokens
        masked, begins, inserts = self.infilling(draw, place, eligible, spans.follows(eligible, segments))
        deletions = spans.table(lambda n: round(self.delete_share * n), length)[jnp.sum(eligible)]
        deleted = spans.pick(delete, eligible & ~masked, deletions)

        taken = jnp.where(masked, begins, real & ~deleted)
        item, rank, filled = spans.expand(taken + inserts, length)
        source = jnp.where((rank < inserts[item]) | masked[item], vocabulary.mask, text[item])
        inputs = {
            "source": jnp.where(filled, source, vocabulary.pad),
            "source_segments": jnp.where(filled, segments[item], 0),
            "tokens": spans.shift_right(tokens, segments, getattr(vocabulary, self.start)),
            "segments": segments,
        }
        return Example(inputs, tokens, real.astype(jnp.float32))

    def _most_spans(self, length: int) -> int:
        return 2 * round(self.mask_share * length) + 16  # meets any budget, but for a chance below 1e-6

    def infilling(
        self, draw: jax.Array, place: jax.Array, eligible: jax.Array, joined: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return what text infilling does to each token of a row.

        Args:
            draw: uint32[N], random, for the lengths of at most N spans; place: uint32[T + N], for where they go.

        Returns:
            masked: bool[T], hidden by a span; begins: bool[T], of those, the ones that a mask token stands for.
            inserts: int32[T], mask tokens inserted before the token.
        """
        import jax.numpy as jnp

        size = eligible.shape[0]
        ordinary = jnp.sum(eligible)
        budget = spans.table(lambda n: round(self.mask_share * n), size)[ordinary]
        lengths = spans.draw(draw, _cumulative_poisson(self.mean_span))
        before = jnp.cumsum(lengths) - lengths
        count = jnp.sum(before < budget)  # spans until the budget is met, those of length 0 included
        lengths = jnp.clip(budget - before, 0, lengths)

        # Spans and kept tokens share a line of slots: choosing the spans' slots places them without overlap.
        slot = jnp.arange(place.shape[0])
        slots = ordinary - jnp.sum(lengths) + count
        is_span = spans.pick(place, slot < slots, count)
        covers = jnp.where(is_span, lengths[jnp.cumsum(is_span) - 1], 1) * (slot < slots)
        owner, rank, _ = spans.expand(covers, size)
        index = jnp.cumsum(eligible) - 1
        masked = eligible & is_span[owner][index]
        begins = masked & ((rank == 0)[index] | ~joined)

        empty = is_span & (covers == 0)
        target = jnp.clip(jnp.cumsum(covers), 0, ordinary - 1)  # of the next token; the last takes those at the end
        inserts = jnp.zeros(size, jnp.int32).at[target].add(empty.astype(jnp.int32), mode="drop")
        inserts = jnp.where(eligible, inserts[index], 0)
        room = jnp.sum(masked) - jnp.sum(begins)
        return masked, begins, jnp.clip(room - (jnp.cumsum(inserts) - inserts), 0, inserts)


def permuted(bits: jax.Array, tokens: jax.Array, segments: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Return int32[T]: the row with the sentences of each document in random order, special tokens left in place.

    A sentence ends after its last end mark ("?!" is one end), at a special token and at the end of its document.
    """
    import jax.numpy as jnp
    from jax import lax

    size = tokens.shape[0]
    eligible = spans.is_eligible(tokens, segments, vocabulary)
    stops = jnp.asarray(vocabulary.ends_sentence)[tokens]
    after = jnp.concatenate([jnp.zeros(1, bool), stops[:-1]]) & ~stops
    starts = eligible & (~spans.follows(eligible, segments) | after)
    head, _ = spans.groups(starts, eligible)
    rank = bits[head]
    document = jnp.where(eligible, segments, size + 1)  # the others go last
    *_, shuffled = lax.sort((document, rank, tokens), num_keys=2, is_stable=True)
    return jnp.where(eligible, shuffled[jnp.cumsum(eligible) - 1], tokens)


def _cumulative_poisson(mean: float) -> np.ndarray:
    """Return float64[N]: the cumulative probabilities of 0, 1, ... up to where less than 1e-9 is left."""
    probabilities = [math.exp(-mean)]
    while 1 - sum(probabilities) > 1e-9:
        probabilities.append(probabilities[-1] * mean / len(probabilities))
    return np.cumsum(probabilities)
