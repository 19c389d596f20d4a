"""The feed-forward language model: a word from the vectors of the few words before it (Bengio et al., 2003)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.cache import Carried, read_on
from research.models.dropout import Dropout
from research.models.ladder import FeedForward
from research.models.layers import Dense, Dtype, Embedding
from research.models.recurrent import Output

Carry = dict[str, jax.Array] | tuple[()]
"""The last words read, `tokens` int32[B, context - 1]: what a row needs of the row before it; () of a context of one."""


def start(arch: FeedForward, rows: int) -> Carry:
    """Return the carry of `rows` rows that nothing came before: id 0 stands for no word."""
    return {"tokens": jnp.zeros((rows, arch.context - 1), jnp.int32)} if arch.context > 1 else ()  # Orbax saves none of 0


class FeedForwardModel(nn.Module):
    """Map tokens, and the words before them, to states ready for the vocabulary projection, and their own last words.

    Parameters are float32 whatever `dtype`, which is what products are computed in. Dropout draws from the rng named
    "dropout".
    """

    arch: FeedForward
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.tokens = Embedding(self.arch.vocab_size, self.arch.width, self.dtype)
        self.decoder = Hidden(self.arch, self.dtype)
        self.head = Output(self.arch)

    def __call__(self, tokens: jax.Array, segments: jax.Array | None = None, *, deterministic: bool = True) -> jax.Array:
        """Return the states [B, T, D] of rows int32[B, T] that nothing came before; documents are not told apart."""
        return self.read(tokens, start(self.arch, tokens.shape[0]), deterministic=deterministic)[0]

    def read(
        self, tokens: jax.Array, carry: Carry, valid: jax.Array | None = None, deterministic: bool = True
    ) -> tuple[jax.Array, Carry]:
        """Return the states [B, T, D] of tokens int32[B, T], and their carry.

        Args:
            tokens: Read from left to right.
            carry: Of the tokens before the first.
            valid: bool[B, T]: which tokens are not padding, for which id 0 is read; None: all.
            deterministic: Whether dropout is off; else pass rngs={"dropout": key}.
        """
        length, context = tokens.shape[1], self.arch.context
        tokens = tokens if valid is None else jnp.where(valid, tokens, 0)
        whole = jnp.concatenate([carry["tokens"], tokens], axis=1) if carry else tokens
        words = self.tokens(whole)
        beside = jnp.concatenate([words[:, i : i + length] for i in range(context)], axis=-1)
        return self.head(self.decoder(beside, deterministic)), {"tokens": whole[:, length:]} if carry else ()

    def extend(self, tokens: jax.Array, valid: jax.Array, cache: Carried, **_: None) -> tuple[jax.Array, Carried]:
        """Return the state [B, D] of the last of `tokens` and the memory with them; see `cache.read_on`."""
        return read_on(self.read, tokens, valid, cache)


class Hidden(nn.Module):
    """The hidden layer and, where there are direct connections, its inputs beside it."""

    arch: FeedForward
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        arch = self.arch
        x = Dropout(arch.dropout)(x, deterministic)
        hidden = jnp.tanh(Dense(arch.hidden_width, dtype=self.dtype, name="block_0")(x))
        hidden = Dropout(arch.dropout)(hidden, deterministic)
        return jnp.concatenate([hidden, x], axis=-1) if arch.direct else hidden
