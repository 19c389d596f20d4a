"""What a model keeps of the tokens it has read, so that each new one costs one column of attention, or one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.models.arch import Arch

KeysValues = tuple[jax.Array, jax.Array]  # [B, H, S, d] each: on a CPU a fifth of the time of [B, S, H, d]


class Kept(NamedTuple):
    """What one block keeps."""

    own: KeysValues  # of the decoder's tokens, a slot each; those from Cache.index on are not written yet
    across: KeysValues | None  # of the encoder's states; None before the first call


class Cache(NamedTuple):
    """A decoder's memory: S slots a row, filled from the left, the same number in every row.

    Rows of different lengths are padded on the left, so that all write the same slot at the same time: one slice
    instead of a scatter.
    """

    index: jax.Array  # int32[]: slots filled so far
    valid: jax.Array  # bool[B, S]: slots that hold a token rather than padding
    blocks: tuple[Kept, ...]

    def positions(self, valid: jax.Array) -> jax.Array:
        """Return the position of each token about to be added, int32[B, T], given which are not padding."""
        before = jnp.sum(self.valid & (jnp.arange(self.valid.shape[1]) < self.index), axis=1, dtype=jnp.int32)
        return jnp.maximum(before[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)

    def mask(self, length: int, bidirectional: bool) -> jax.Array:
        """Return which slots the last `length` tokens before `index` see: bool[B, 1, T, S].

        Each sees the tokens up to itself, or all that there are where `bidirectional`.
        """
        slots = jnp.arange(self.valid.shape[1])
        last = self.index - 1 if bidirectional else self.index - length + jnp.arange(length)[:, None]
        return self.valid[:, None, None, :] & (slots <= last)

    def add(self, valid: jax.Array) -> Cache:
        """Return the cache with room taken for tokens of which `valid`, bool[B, T], are not padding."""
        return self._replace(index=self.index + valid.shape[1], valid=_filled(self.valid, valid, self.index))

    def longer(self, slots: int) -> Cache:
        """Return the cache with room for `slots` tokens a row; outside jit, as this one is given up, array by array, so
        that memory never holds both."""
        more = slots - self.valid.shape[1]
        blocks = (kept._replace(own=tuple(_moved(x, 2, more) for x in kept.own)) for kept in self.blocks)
        return self._replace(valid=_moved(self.valid, 1, more), blocks=tuple(blocks))

    def back(self) -> Cache:
        """Return the cache before the last token, to be read again: it writes the same into the same slot."""
        return self._replace(index=self.index - 1)

    def of(self, rows: jax.Array) -> Cache:
        """Return the cache of the beams that descend from `rows`, whose source is the same for all of a prompt."""
        blocks = tuple(kept._replace(own=tuple(x[rows] for x in kept.own)) for kept in self.blocks)
        return self._replace(blocks=blocks)


class Carried(NamedTuple):
    """The memory of a model that reads step by step, with the methods of `Cache`."""

    index: jax.Array  # int32[]: slots filled so far
    valid: jax.Array  # bool[B, S]
    now: Any  # the model's carry
    before: Any  # that without the last token

    def back(self) -> Carried:
        """Return the memory before the last token, to be read again."""
        return self._replace(index=self.index - 1, now=self.before)

    def of(self, rows: jax.Array) -> Carried:
        """Return the memory of the beams that descend from `rows`."""
        now, before = jax.tree.map(lambda x: x[rows], (self.now, self.before))
        return self._replace(now=now, before=before)


def read_on(read: Callable[..., Any], tokens: jax.Array, valid: jax.Array, memory: Carried) -> tuple[jax.Array, Carried]:
    """Return the state [B, D] of the last of `tokens`, and the memory with all of them.

    Args:
        read: (tokens, carry, valid) -> states, carry.
        tokens: int32[B, T]; padding stands on the left.
        valid: bool[B, T], which of them are not padding.
        memory: Of the tokens before.
    """
    before = memory.now
    if tokens.shape[1] > 1:
        _, before = read(tokens[:, :-1], before, valid[:, :-1])
    states, now = read(tokens[:, -1:], before, valid[:, -1:])
    filled = _filled(memory.valid, valid, memory.index)
    return states[:, 0], Carried(memory.index + tokens.shape[1], filled, now, before)


def _filled(slots: jax.Array, valid: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(slots, valid, index, axis=1)


def _moved(values: jax.Array, axis: int, more: int) -> jax.Array:
    longer = jnp.pad(values, [(0, more if at == axis else 0) for at in range(values.ndim)])
    values.delete()
    return longer


def empty(arch: Arch, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """Return a cache of `slots` tokens for `batch` rows of a decoder of shape `arch`; nothing is in it yet."""
    shape = (batch, arch.heads, slots, arch.attention_width // arch.heads)
    own = (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    return Cache(jnp.int32(0), jnp.zeros((batch, slots), bool), (Kept(own, None),) * arch.depth)


def append(kept: KeysValues, new: KeysValues, index: jax.Array) -> KeysValues:
    """Return `kept` with `new`, [B, T, H, d] each, written from slot `index` on."""
    new = heads_first(new)
    keys, values = (jax.lax.dynamic_update_slice_in_dim(a, b, index, axis=2) for a, b in zip(kept, new, strict=True))
    return keys, values


def heads_first(both: KeysValues) -> KeysValues:
    """Return keys and values [B, H, S, d] of [B, S, H, d]."""
    return both[0].swapaxes(1, 2), both[1].swapaxes(1, 2)
