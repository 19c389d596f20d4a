"""Attention: who sees whom, T5's relative bias, and the weighted sum itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.arch import Arch
from research.models.cache import KeysValues, append
from research.models.dropout import Dropout
from research.models.layers import Dense, Dtype, Embedding

IMPLEMENTATION = "cudnn"  # of fused attention; tests compute the same with "xla"


def self_mask(
    length: int, segments: jax.Array | None, *, causal: bool, prefix: jax.Array | None = None
) -> jax.Array | None:
    """Return who sees whom within a row: bool[B or 1, 1, T (queries), T (keys)], or None where all see all.

    A document sees itself alone: all of it, or the past where `causal`, together with its `prefix` (bool[B, T], keys
    that are seen from everywhere). Padding (segment 0) counts as a document, so that every token sees at least itself.
    """
    mask = None
    if causal:
        index = jnp.arange(length)
        mask = (index[:, None] >= index)[None]
        if prefix is not None:
            mask = mask | prefix[:, None, :]
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]
        mask = same if mask is None else mask & same
    return None if mask is None else mask[:, None]


def cross_mask(segments: jax.Array | None, source_segments: jax.Array | None) -> jax.Array | None:
    """Return which source tokens each target token sees: bool[B, 1, T or 1, S], or None where all see all.

    A document of the target sees the source of the same number; without `segments`, everything but padding.
    """
    if source_segments is None:
        return None
    if segments is None:
        return (source_segments != 0)[:, None, None, :]
    return (segments[:, :, None] == source_segments[:, None, :])[:, None]


def relative_bucket(distance: jax.Array, *, bidirectional: bool, buckets: int, furthest: int) -> jax.Array:
    """Return the bucket of each `distance` (key index - query index), int32 of the same shape.

    Near distances have a bucket each, farther ones share buckets that widen with the logarithm, and all from `furthest`
    on share the last (Raffel et al., 2020, section 2.1; Mesh TensorFlow's rounding).
    """
    bucket = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        bucket = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)  # the future is masked: any bucket will do
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    wide = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return bucket + jnp.where(distance < exact, distance, wide)


def toeplitz(values: jax.Array, queries: int, keys: int) -> jax.Array:
    """Return [..., queries, keys] whose element (q, k) is values[..., k - q + queries - 1].

    Copies and slices only: indexing would turn the gradient into a scatter of queries x keys rows, which is slow
    everywhere. The rows of a copy that is read one element short shift by one each.
    """
    if queries == 1:
        return values[..., None, :]
    span = queries + keys - 1
    flat = jnp.broadcast_to(values[..., None, :], (*values.shape[:-1], queries, span))
    flat = flat.reshape(*values.shape[:-1], queries * span)[..., queries - 1 : -1]
    return flat.reshape(*values.shape[:-1], queries, span - 1)[..., :keys]


def relative_bias(
    arch: Arch, queries: int, keys: int, first: int | jax.Array = 0, *, bidirectional: bool
) -> jax.Array:
    """Return T5's bias on attention scores, float32[1, H, T, S]; its table [buckets, H] belongs to the calling stack.

    It depends on index differences alone, which within a document are what they would be were it alone in its row.
    Keys are numbered from 0, queries from `first`.
    """
    bucket = relative_bucket(
        jnp.arange(1 - queries, keys) - first,
        bidirectional=bidirectional,
        buckets=arch.relative_buckets,
        furthest=arch.relative_distance,
    )
    values = Embedding(arch.relative_buckets, arch.heads, name="relative")(bucket)
    return toeplitz(values.T, queries, keys)[None]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    scale: float = 1.0,
    heads_first: bool = False,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Return softmax(scale x query key^T + bias) value: [B, T, H, d] of [B, T, H, d] and two of [B, S, H, d].

    With `heads_first` keys and values are [B, H, S, d], as a cache holds them.

    Scores and softmax are float32. What `mask` hides has a weight of exactly 0, so that no gradient passes either; a
    query that sees nothing gets zeros, never NaN (Vaswani et al., 2017, section 3.2.1).
    """
    keys = "bhsd" if heads_first else "bshd"
    scores = jnp.einsum(f"bthd,{keys}->bhts", query * scale, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)  # -inf would make a row of nothing NaN
    weights = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)  # a row of nothing is uniform until here
    weights = weights.astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum(f"bhts,{keys}->bthd", weights, value)


def attend_past(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: float,
    dropout: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Return what `attend` does of T queries and keys whose `mask` hides the future, most of which is not computed.

    Queries come in parts, each with the keys up to its own end: with four parts five eighths of the scores are made.
    More parts would leave out more, but smaller products are slower.
    """
    length = query.shape[1]
    size = past_part(length)
    parts = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        mask_part, bias_part = (None if x is None else x[:, :, start:stop, :stop] for x in (mask, bias))
        part = query[:, start:stop], key[:, :stop], value[:, :stop]
        parts.append(attend(*part, mask=mask_part, bias=bias_part, scale=scale, dropout=dropout))
    return jnp.concatenate(parts, axis=1)


def past_part(length: int) -> int:
    """Return how many of `length` queries `attend_past` takes at a time."""
    return max(64, -(-length // 4))


def fused_attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    scale: float = 1.0,
    causal: bool = False,
) -> jax.Array:
    """Return what `attend` does without dropout, by cuDNN's one kernel, which keeps no scores (Dao et al., 2022).

    It takes bfloat16 and even lengths. Masks are given in full, as there, so that the documents of a row do not see one
    another; `causal` says that `mask` hides all of the future, which is then left out, not computed and hidden. T5's
    bias is rounded to bfloat16. Dropout of weights it cannot take: jax.nn offers none.
    """
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], key.shape[1]))  # it takes no [B, 1, 1, S]
    bias = None if bias is None else bias.astype(query.dtype)
    y = jax.nn.dot_product_attention(
        query, key, value, bias, mask, scale=scale, is_causal=causal, implementation=IMPLEMENTATION
    )
    if mask is None:
        return y
    sees = jnp.any(mask, axis=(1, 3))[..., None, None]
    return jnp.where(sees, y, 0)  # a query that sees nothing would get the mean of what is hidden


class Attention(nn.Module):
    """Multi-head attention of `x` to itself, or to `context` where one is given.

    Projections and `attend` are apart, so that decoding can keep what `keys_values` returned. With `fused` training and
    evaluation use cuDNN's kernel; `causal` says that masks hide the future.
    """

    arch: Arch
    dtype: Dtype = jnp.float32
    fused: bool = False
    causal: bool = False

    def setup(self) -> None:
        arch = self.arch
        self.query = Dense(arch.attention_width, arch.bias, self.dtype)
        self.key = Dense(arch.attention_width, arch.bias, self.dtype)
        self.value = Dense(arch.attention_width, arch.bias, self.dtype)
        self.out = Dense(arch.width, arch.bias, self.dtype)
        self.dropout = Dropout(arch.attention_dropout)

    def heads(self, x: jax.Array) -> jax.Array:
        """Split the last axis into heads: [B, T, H, d]."""
        return x.reshape(*x.shape[:-1], self.arch.heads, -1)

    def keys_values(self, context: jax.Array) -> KeysValues:
        """Return the keys and values of `context`, [B, S, H, d] each."""
        return self.heads(self.key(context)), self.heads(self.value(context))

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None,
        mask: jax.Array | None,
        bias: jax.Array | None,
        deterministic: bool,
        kept: KeysValues | None = None,
        index: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """Return the output and the keys and values that it was made from.

        `kept`, [B, H, S, d] each, with an `index` takes those of `x` in from that slot on; without one it stands for
        `context`'s.
        """
        query = self.heads(self.query(x))
        if kept is not None and index is None:
            key, value = kept
        else:
            key, value = self.keys_values(x if context is None else context)
            if kept is not None:
                key, value = append(kept, (key, value), index)
        how = {"mask": mask, "bias": bias, "scale": query.shape[-1] ** -0.5 if self.arch.scale_attention else 1.0}
        if self.fused and kept is None and not (query.shape[1] % 2 or key.shape[1] % 2):
            y = fused_attend(query, key, value, causal=self.causal, **how)
        else:
            drop = lambda weights: self.dropout(weights, deterministic)  # noqa: E731
            if self.causal and kept is None:
                y = attend_past(query, key, value, dropout=drop, **how)
            else:
                y = attend(query, key, value, heads_first=kept is not None, dropout=drop, **how)
        return self.out(y.reshape(*x.shape[:-1], -1)), (key, value)
