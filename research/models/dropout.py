"""Dropout whose masks are computed where they are used, and are the same on one device and on many."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Set each element of an array to 0 with probability `rate`, and scale the rest to the same mean.

    The key is of the rng named "dropout". Srivastava et al. (2014), scaled in training rather than in use.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        return x if deterministic or not self.rate else drop(x, self.rate, self.make_rng("dropout"))


def drop(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Return `x`, of one axis or more, with each element 0 with probability `rate`, else over 1 - `rate`."""
    threshold = jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(random_bits(key, x.shape) >= threshold, x / (1 - rate), 0).astype(x.dtype)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return uint32[shape] that depends on the threefry `key` and each element's place alone.

    A word for the last axis and one for all others are hashed apart, and their exclusive or once more: some ten
    operations an element, which XLA fuses into what reads them. jax.random's generators write all bits to memory
    first, which for the masks took a tenth of a step on a CPU; and of them only threefry gives each device of a mesh
    its part. This is no generator for statistics: what the four corners of a rectangle were hashed from adds up to 0.
    """
    first, second = jax.random.key_data(key)
    *rows, width = shape
    row = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(rows):
        row = row * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, (*rows, 1), axis)
    column = jax.lax.iota(jnp.uint32, width)
    return _hash(_hash(row + first) ^ _hash(_hash(column) + second))


def _hash(x: jax.Array) -> jax.Array:
    """Return MurmurHash3's finaliser of each word (Appleby, 2011): each bit of `x` turns about half of the result's."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
