"""The small parts: projection, table, norm, feed-forward block, positions within documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.arch import Arch
from research.models.dropout import Dropout
from research.models.product import product
from research.types import UserError

Dtype = Any


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function at x, by erf (Hendrycks and Gimpel, 2016).

    What BERT, RoBERTa and BART were trained with; jax.nn.gelu is the tanh form unless told otherwise, and then uses the
    dearer erfc.
    """
    return 0.5 * x * (1.0 + jax.lax.erf(x * (0.5**0.5)))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": gelu, "gelu_tanh": jax.nn.gelu, "relu": jax.nn.relu}


class Dense(nn.Module):
    """Affine map of the last axis: kernel float32[in, features] and bias float32[features], computed in `dtype`.

    Every leading axis is folded into one, because XLA:CPU multiplies matrices several times faster than it does
    tensors of three axes.
    """

    features: int
    bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features), jnp.float32)
        y = product(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel.astype(self.dtype))
        if self.bias:
            # Added in float32, so that its gradient, a sum over all positions, is one too; the casts are fused away.
            y = y.astype(jnp.float32) + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y.astype(self.dtype).reshape(*x.shape[:-1], self.features)


class Embedding(nn.Module):
    """Table float32[rows, features] of vectors; nn.Embed would cast the whole table to `dtype` before each look-up."""

    rows: int
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array | slice) -> jax.Array:
        table = self.param("embedding", nn.initializers.zeros, (self.rows, self.features), jnp.float32)
        rows = table[ids] if isinstance(ids, slice) else jnp.take(table, ids, axis=0)
        return rows.astype(self.dtype)


class MLP(nn.Module):
    """Feed-forward block: down(act(up(x))), or down(act(gate(x)) * up(x)) (Shazeer, 2020)."""

    arch: Arch
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        arch = self.arch

        def dense(name: str, features: int) -> Dense:
            return Dense(features, arch.bias, self.dtype, name=name)

        h = dense("up", arch.mlp_width)(x)
        act = ACTIVATIONS[arch.activation]
        h = act(dense("gate", arch.mlp_width)(x)) * h if arch.gated else act(h)
        h = Dropout(arch.activation_dropout)(h, deterministic)
        return dense("down", arch.width)(h)


def norm(arch: Arch, dtype: Dtype, name: str) -> nn.Module:
    """Return the norm of `arch`: statistics in float32, and the variance from centred values.

    Linen's defaults are epsilon 1e-6 and E[x^2] - E[x]^2, which loses all digits where the mean is large.
    """
    if arch.norm == "rms":
        return nn.RMSNorm(epsilon=arch.norm_epsilon, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=arch.norm_epsilon, use_fast_variance=False, dtype=dtype, name=name)


def index_in_document(segments: jax.Array) -> jax.Array:
    """Return each token's index within its run of equal segments: int32[B, T] of int32[B, T]."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def embed(
    arch: Arch,
    x: jax.Array,
    segments: jax.Array | None,
    dtype: Dtype,
    positions: jax.Array | None = None,
    types: jax.Array | None = None,
) -> jax.Array:
    """Return token vectors [B, T, D] with positions and types added, and normalised; tables belong to the caller.

    Without `positions`, int32[B, T], tokens are numbered from 0 within their document; without `types`, int32[B, T],
    all are of type 0, as they are where there is no other (RoBERTa).
    """
    length = x.shape[1]
    if arch.positions == "learned":
        if length > arch.max_length and positions is None:
            raise UserError(
                f"rows of {length} tokens do not fit arch.max_length {arch.max_length}: shorten the rows or raise it"
            )
        first = arch.position_offset
        rows = first + arch.max_length
        table = Embedding(rows, arch.width, dtype, name="positions")
        if positions is None and segments is not None:
            positions = index_in_document(segments)
        x = x + table(slice(first, first + length) if positions is None else first + positions)
    if arch.types:
        table = Embedding(arch.types, arch.width, dtype, name="types")
        x = x + table(slice(0, 1) if types is None or arch.types < 2 else types)
    return norm(arch, dtype, "embedding_norm")(x) if arch.embedding_norm else x
