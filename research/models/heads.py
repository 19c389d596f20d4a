"""What follows the last block: the transform before the vocabulary or the labels, and the projection onto them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.arch import Arch
from research.models.dropout import Dropout
from research.models.layers import ACTIVATIONS, Dense, Dtype, norm


class Head(nn.Module):
    """Make final states ready for the vocabulary projection, whose own parameters live here unless they are tied."""

    arch: Arch
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arch = self.arch
        if arch.head_transform:
            x = ACTIVATIONS[arch.activation](Dense(arch.width, dtype=self.dtype, name="transform")(x))
            x = norm(arch, self.dtype, "norm")(x)
        if not arch.tied:
            self.param("kernel", nn.initializers.zeros, (arch.vocab_size, arch.width), jnp.float32)
        if arch.head_bias:
            self.param("bias", nn.initializers.zeros, (arch.vocab_size,), jnp.float32)
        return x * arch.width**-0.5 if arch.scale_logits else x


class Classifier(nn.Module):
    """Make final states ready for the projection onto labels, whose parameters live here; no bias is GPT-2's way."""

    arch: Arch
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        arch = self.arch
        self.param("kernel", nn.initializers.zeros, (arch.labels, arch.width), jnp.float32)
        if arch.label_bias:
            self.param("bias", nn.initializers.zeros, (arch.labels,), jnp.float32)
        return Dropout(arch.dropout)(x, deterministic)


def output_projection(arch: Arch, params: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return the last projection: kernel float32[V, D] and bias float32[V] or None; V is the vocabulary, tied or not,
    or the labels."""
    if arch.head != "vocabulary":
        return params["classifier"]["kernel"], params["classifier"].get("bias")
    head = params.get("head", {})
    return params["tokens"]["embedding"] if arch.tied else head["kernel"], head.get("bias")


def logits(model: nn.Module, params: Any, **inputs: Any) -> jax.Array:
    """Return float32[B, T or K, V] for the inputs of `model`: small tests and generation only, as V is large."""
    return project(model.arch, params, model.apply({"params": params}, **inputs))


def project(arch: Arch, params: Any, hidden: jax.Array) -> jax.Array:
    """Return float32[..., V] logits of states [..., D] that are ready for the projection."""
    kernel, bias = output_projection(arch, params)
    out = jnp.einsum("...d,vd->...v", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return out if bias is None else out + bias
