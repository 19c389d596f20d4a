"""Recurrent language models: Elman, LSTM or GRU layers along a row, from the state that the row before it left."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.cache import Carried, read_on
from research.models.dropout import drop
from research.models.ladder import FeedForward, Recurrent
from research.models.layers import Dense, Dtype, Embedding

GATES = {"elman": 1, "lstm": 4, "gru": 3}

State = dict[str, jax.Array]
"""What a layer hands from one step to the next: its `output` [B, D] and, of an LSTM, its `cell` [B, D]; float32."""

Carry = tuple[State, ...]
"""The states of all layers."""


def start(arch: Recurrent, rows: int) -> Carry:
    """Return the carry of `rows` rows that nothing came before."""
    names = ("output", "cell") if arch.cell == "lstm" else ("output",)
    return tuple({name: jnp.zeros((rows, width), jnp.float32) for name in names} for width in arch.widths)


class RecurrentModel(nn.Module):
    """Map tokens, and the carry of those before them, to states ready for the vocabulary projection, and their carry.

    Parameters are float32 whatever `dtype`, which is what products over whole rows are computed in; what goes from one
    step to the next is float32. Dropout draws from the rng named "dropout".
    """

    arch: Recurrent
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.tokens = Embedding(self.arch.vocab_size, self.arch.width, self.dtype)
        self.decoder = Layers(self.arch, self.dtype)
        self.head = Output(self.arch)

    def __call__(self, tokens: jax.Array, segments: jax.Array | None = None, *, deterministic: bool = True) -> jax.Array:
        """Return the states [B, T, D] of rows int32[B, T] that nothing came before; documents are not told apart."""
        return self.read(tokens, start(self.arch, tokens.shape[0]), deterministic=deterministic)[0]

    def read(
        self, tokens: jax.Array, carry: Carry, valid: jax.Array | None = None, deterministic: bool = True
    ) -> tuple[jax.Array, Carry]:
        """Return the states [B, T, D] of tokens int32[B, T], and the carry of the last of them.

        Args:
            tokens: Read from left to right.
            carry: Of the tokens before the first.
            valid: bool[B, T]: which tokens are not padding, which leaves the carry as it is; None: all.
            deterministic: Whether dropout is off; else pass rngs={"dropout": key}.
        """
        arch, x = self.arch, self.tokens(tokens)
        if arch.word_dropout and not deterministic:
            kept = drop(jnp.ones((arch.vocab_size, 1), x.dtype), arch.word_dropout, self.make_rng("dropout"))
            x = x * jnp.take(kept, tokens, axis=0)
        x, carry = self.decoder(x, carry, valid, deterministic)
        return self.head(x), carry

    def extend(self, tokens: jax.Array, valid: jax.Array, cache: Carried, **_: None) -> tuple[jax.Array, Carried]:
        """Return the state [B, D] of the last of `tokens` and the memory with them; see `cache.read_on`."""
        return read_on(self.read, tokens, valid, cache)


class Layers(nn.Module):
    """The recurrent layers, one above the other."""

    arch: Recurrent
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, carry: Carry, valid: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, Carry]:
        arch, after = self.arch, []
        rates = [arch.input_dropout, *[arch.dropout] * (arch.layers - 1), arch.output_dropout]
        x = self._dropped(x, rates[0], deterministic)
        for i, (state, width) in enumerate(zip(carry, arch.widths, strict=True)):
            x, state = Layer(arch, width, self.dtype, name=f"block_{i}")(x, state, valid, deterministic)
            x = self._dropped(x, rates[i + 1], deterministic)
            after.append(state)
        return x, tuple(after)

    def _dropped(self, x: jax.Array, rate: float, deterministic: bool) -> jax.Array:
        """Return `x` [B, T, D] with elements dropped, the same at every step where dropout is variational."""
        if deterministic or not rate:
            return x
        if not self.arch.variational:
            return drop(x, rate, self.make_rng("dropout"))
        return x * drop(jnp.ones((x.shape[0], 1, x.shape[2]), x.dtype), rate, self.make_rng("dropout"))


class Layer(nn.Module):
    """One recurrent layer: the inputs' part of the gates is one product over all steps, the rest a product a step."""

    arch: Recurrent
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, state: State, valid: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, State]:
        cell, size = self.arch.cell, GATES[self.arch.cell] * self.width
        inputs = Dense(size, dtype=self.dtype, name="input")(x)
        kernel, bias = Weights(self.width, size, bias=cell == "gru", name="recurrent")()
        if self.arch.weight_dropout and not deterministic:
            kernel = drop(kernel, self.arch.weight_dropout, self.make_rng("dropout"))
        valid = jnp.ones(x.shape[:2], bool) if valid is None else valid
        outputs, state = along(cell, inputs.swapaxes(0, 1).astype(jnp.float32), kernel, bias, state, valid.T)
        return outputs.swapaxes(0, 1).astype(self.dtype), state


class Weights(nn.Module):
    """Hold what multiplies a layer's last output: kernel float32[D, G D] and, of a GRU, whose reset gate comes after
    it, a bias of its own."""

    width: int
    size: int
    bias: bool

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.zeros, (self.width, self.size), jnp.float32)
        zeros = nn.initializers.zeros
        return kernel, self.param("bias", zeros, (self.size,), jnp.float32) if self.bias else jnp.zeros(self.size)


class Output(nn.Module):
    """Hold the parameters of the vocabulary projection that are not tied; states pass through."""

    arch: FeedForward | Recurrent

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.arch.tied:
            shape = (self.arch.vocab_size, self.arch.state_width)
            self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
        self.param("bias", nn.initializers.zeros, (self.arch.vocab_size,), jnp.float32)
        return x


# --- along a row ------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def along(
    cell: str, inputs: jax.Array, kernel: jax.Array, bias: jax.Array, state: State, valid: jax.Array
) -> tuple[jax.Array, State]:
    """Return a layer's outputs float32[T, B, D] and its last state.

    The gradient of the kernel is one product over all steps. What `jax.lax.scan` makes of it adds a whole kernel's
    gradient at every step, which at small batches takes longer than all else.

    Args:
        cell: Name of a cell.
        inputs: float32[T, B, G D], the inputs' part of the gates.
        kernel: float32[D, G D], what multiplies the last output.
        bias: float32[G D], added to that product.
        state: Before the first step.
        valid: bool[T, B]: steps that are not padding.
    """
    return _steps(cell, inputs, jnp.zeros_like(inputs), kernel, bias, state, valid)


def _forward(cell: str, inputs: jax.Array, kernel: jax.Array, bias: jax.Array, state: State, valid: jax.Array) -> Any:
    def run(inputs: jax.Array, product: jax.Array, state: State) -> tuple[jax.Array, State]:
        return _steps(cell, inputs, product, kernel, bias, state, valid)

    (outputs, after), pull = jax.vjp(run, inputs, jnp.zeros_like(inputs), state)
    before = jnp.concatenate([state["output"][None], outputs[:-1]])
    return (outputs, after), (pull, before)


def _backward(cell: str, kept: Any, cotangent: Any) -> Any:
    pull, before = kept
    d_inputs, d_product, d_state = pull(cotangent)
    d_kernel = jnp.einsum("tbd,tbg->dg", before, d_product)
    return d_inputs, d_kernel, jnp.sum(d_product, axis=(0, 1)), d_state, None


along.defvjp(_forward, _backward)


def _steps(
    cell: str, inputs: jax.Array, product: jax.Array, kernel: jax.Array, bias: jax.Array, state: State, valid: jax.Array
) -> tuple[jax.Array, State]:
    """Return outputs and last state; `product` [T, B, G D] is zeros, there to take the gradient of what it is added to."""

    def step(state: State, at: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        inputs, product, valid = at
        after = CELLS[cell](inputs, state["output"] @ kernel + bias + product, state)
        after = jax.tree.map(lambda new, old: jnp.where(valid[:, None], new, old), after, state)
        return after, after["output"]

    after, outputs = jax.lax.scan(step, state, (inputs, product, valid))
    return outputs, after


def elman(inputs: jax.Array, product: jax.Array, state: State) -> State:
    """Return the next state of logistic units (Elman, 1990; Mikolov et al., 2010, equation 2)."""
    return {"output": jax.nn.sigmoid(inputs + product)}


def lstm(inputs: jax.Array, product: jax.Array, state: State) -> State:
    """Return the next state of LSTM units without peepholes (Zaremba et al., 2014, section 3.1); gates i, f, g, o."""
    i, f, g, o = jnp.split(inputs + product, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state["cell"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return {"output": jax.nn.sigmoid(o) * jnp.tanh(cell), "cell": cell}


def gru(inputs: jax.Array, product: jax.Array, state: State) -> State:
    """Return the next state of gated units (Cho et al., 2014), with the reset after the product as in cuDNN; gates r,
    z, n."""
    (r, z, n), (r_, z_, n_) = jnp.split(inputs, 3, axis=-1), jnp.split(product, 3, axis=-1)
    update = jax.nn.sigmoid(z + z_)
    new = jnp.tanh(n + jax.nn.sigmoid(r + r_) * n_)
    return {"output": update * state["output"] + (1 - update) * new}


CELLS = {"elman": elman, "lstm": lstm, "gru": gru}
