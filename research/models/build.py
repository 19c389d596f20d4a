"""The model that an architecture describes: its module, the shapes and first values of its parameters, its carry."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from research.models import cache, feedforward, initialise, recurrent
from research.models.arch import Arch
from research.models.cache import Cache, Carried
from research.models.feedforward import FeedForwardModel
from research.models.ladder import FeedForward, Recurrent
from research.models.layers import Dtype
from research.models.recurrent import RecurrentModel
from research.models.transformer import Transformer

AnyArch = Arch | FeedForward | Recurrent
Model = Transformer | FeedForwardModel | RecurrentModel


def create(arch: AnyArch, dtype: Dtype = jnp.float32, remat: bool = False, fused: bool = False) -> Model:
    """Return the Linen module of `arch`, computing in `dtype`; `remat` and `fused` are of transformers alone."""
    if isinstance(arch, Arch):
        return Transformer(arch, dtype, remat, fused)
    return RecurrentModel(arch, dtype) if isinstance(arch, Recurrent) else FeedForwardModel(arch, dtype)


def start(arch: AnyArch, rows: int) -> Any:
    """Return what `rows` rows carry over that nothing came before, arrays of [rows, ...]; a transformer nothing, ()."""
    if isinstance(arch, Arch):
        return ()
    return recurrent.start(arch, rows) if isinstance(arch, Recurrent) else feedforward.start(arch, rows)


def empty(arch: AnyArch, rows: int, slots: int, dtype: Dtype = jnp.float32) -> Cache | Carried:
    """Return the memory of `rows` rows of at most `slots` tokens of which none has been read, for `extend`."""
    if isinstance(arch, Arch):
        return cache.empty(arch, rows, slots, dtype)
    carry = start(arch, rows)
    return Carried(jnp.int32(0), jnp.zeros((rows, slots), bool), carry, carry)


def example(arch: AnyArch, batch: int = 1, length: int = 1) -> dict[str, jax.Array]:
    """Return the smallest inputs that reach every parameter of `arch`: what `init` is called with."""
    inputs = {"tokens": jnp.zeros((batch, length), jnp.int32)}
    if arch.structure == "encoder-decoder":
        inputs["source"] = jnp.zeros((batch, length), jnp.int32)
    return inputs


def parameter_shapes(arch: AnyArch) -> Any:
    """Return the parameters of `arch` as a nested dict of float32 jax.ShapeDtypeStruct; no memory is taken."""
    return jax.eval_shape(lambda: create(arch).init(jax.random.key(0), **example(arch)))["params"]


def initial_parameters(arch: AnyArch, key: jax.Array) -> Any:
    """Return fresh parameters of `arch`, a nested dict of float32 arrays: a pure, traceable function of (arch, key)."""
    return initialise.values(arch, parameter_shapes(arch), key)


def parameter_count(arch: AnyArch) -> int:
    """Return the number of parameters of `arch`, heads and all; see `arch.base` for what published counts mean."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(arch)))
