"""The one loss: sum of weights x negative log-likelihood, with the last projection fused in.

[B, T, V] logits would be the memory peak of a small model. Here logits exist for a few positions of every row at a
time, and the gradient of each chunk is made while its logits are at hand, so nothing of size V is kept per position and
the projection is not computed again in the backward pass: 3 matrix products in all, as many as the plain form.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from research.train.sharding import batch_sharding


class Sums(NamedTuple):
    """What is added up over positions, microbatches and devices; float32 scalars."""

    total: jax.Array  # weighted loss that is minimised, label smoothing and z-loss included
    nll: jax.Array  # weighted negative log-likelihood, in nats
    correct: jax.Array  # weighted count of targets that had the highest logit
    weight: jax.Array


def vocabulary_loss(
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    mesh: jax.sharding.Mesh | None = None,
) -> Sums:
    """Return the sums of the loss of predicting `targets` from `hidden` @ `kernel`.T + `bias`.

    Chunks run along T and never across the batch axis: chunks of flattened B x T would leave each device of a data mesh
    with all the work. The gradient of the kernel is added up over each device's rows apart, and over devices once,
    behind the last chunk: else every chunk would wait for a sum over all devices of what is as large as the kernel.
    Differentiable in hidden, kernel and bias through `total` alone.

    Args:
        hidden: [B, T, D], any float dtype: the product's dtype; its sums are float32.
        kernel: float32[V, D].
        bias: float32[V], or None.
        targets: int32[B, T], each in [0, V); those of weight 0 may be anything in that range.
        weights: float32[B, T].
        label_smoothing: Share of the target probability spread evenly over V (Szegedy et al., 2016, section 7).
        z_loss: Weight of log(Z)^2 (Chowdhery et al., 2022, section 5).
        mesh: Devices that the rows are spread over, as `sharding.batch_sharding` says; None: one.
    """
    chunks, hidden, targets, weights = _chunked(hidden, kernel, targets, weights, mesh)
    return _loss((label_smoothing, z_loss, chunks, mesh), hidden, kernel, bias, targets, weights)


def token_losses(
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Sums, jax.Array]:
    """Return the sums of `vocabulary_loss`, bare, and each position's negative log-likelihood in nats, float32[B, T].

    For evaluation: it has no gradient. Arguments as there.
    """
    length = hidden.shape[1]
    chunks, hidden, targets, weights = _chunked(hidden, kernel, targets, weights, mesh)
    sums, nll = _scan((0.0, 0.0, chunks, mesh), hidden, kernel, bias, targets, weights, with_gradient=False)
    return sums, nll[:, :length]


def _chunked(hidden, kernel, targets, weights, mesh):
    """Return how many chunks there are along T, and the arrays padded to a multiple of them."""
    rows, length, _ = hidden.shape
    positions = max(1, chunk_bytes(jax.default_backend()) // (4 * kernel.shape[0] * max(1, rows // _shards(mesh))))
    chunks = -(-length // positions)
    positions = -(-length // chunks)
    if chunks * positions > length:
        pad = chunks * positions - length
        hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
        targets, weights = (jnp.pad(x, ((0, 0), (0, pad))) for x in (targets, weights))
    return chunks, hidden, targets, weights


def chunk_bytes(platform: str) -> int:
    """Return how many bytes of float32 logits a device of `platform` makes at a time.

    More leaves a CPU's cache; less reads and writes the projection's gradient more often.
    """
    return (16 if platform == "cpu" else 64) * 2**20


def label_loss(
    problem: str, hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None, targets: jax.Array, weights: jax.Array
) -> Sums:
    """Return the sums of the loss of telling N labels apart from one another, or N numbers: the mean over the N.

    Args:
        problem: multi_label, a sigmoid for each label; or regression, squared errors, of which none is `correct`.
        hidden: [B, K, D], any float dtype.
        kernel: float32[N, D].
        bias: float32[N], or None.
        targets: float32[B, K, N], 0 or 1, or any numbers.
        weights: float32[B, K].
    """
    logits = jnp.einsum("bkd,nd->bkn", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if problem == "regression":
        loss, correct = jnp.square(logits - targets), jnp.zeros_like(logits)
    else:
        loss = jnp.logaddexp(0.0, logits) - targets * logits
        correct = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
    total = jnp.sum(weights * jnp.mean(loss, axis=-1))
    return Sums(total, total, jnp.sum(weights * jnp.mean(correct, axis=-1)), jnp.sum(weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(options, hidden, kernel, bias, targets, weights):
    return _scan(options, hidden, kernel, bias, targets, weights, with_gradient=False)[0]


def _forward(options, hidden, kernel, bias, targets, weights):
    sums, gradients = _scan(options, hidden, kernel, bias, targets, weights, with_gradient=True)
    return sums, gradients


def _backward(options, gradients, cotangent):
    d_hidden, d_kernel, d_bias = gradients
    scale = cotangent.total
    return (
        (d_hidden * scale).astype(d_hidden.dtype),
        d_kernel * scale,
        None if d_bias is None else d_bias * scale,
        None,
        None,
    )


_loss.defvjp(_forward, _backward)


def _shards(mesh):
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _scan(options, hidden, kernel, bias, targets, weights, *, with_gradient):
    """Return the Sums, and their gradients or each position's negative log-likelihood, chunk by chunk along T."""
    label_smoothing, z_loss, chunks, mesh = options
    shards = _shards(mesh)
    rows, length, width = hidden.shape
    size = kernel.shape[0]
    dtype = hidden.dtype
    cast = kernel.astype(dtype)  # [V, D]; once, not once a chunk
    split = lambda x: jnp.moveaxis(x.reshape(rows, chunks, length // chunks, *x.shape[2:]), 1, 0)  # noqa: E731

    def apart(product, *arrays):
        """Return [shards, ...], what `product` makes of the rows of each, left where they are."""
        if shards == 1:
            return product(*arrays)[None]
        made = jax.vmap(product)(*(x.reshape(shards, rows // shards, *x.shape[1:]) for x in arrays))
        # Else XLA carries it from chunk to chunk as the parameter lies, and moves the states of every chunk for that.
        others = [None] * (made.ndim - 2)
        return jax.lax.with_sharding_constraint(made, batch_sharding(mesh, *others, P.UNCONSTRAINED))

    def of_kernel(h, d):  # [D, V], as for [V, D] XLA:CPU copies d transposed
        return jnp.einsum("btd,btv->dv", h, d, preferred_element_type=jnp.float32)

    def of_bias(ones, d):  # a product, as XLA:CPU multiplies faster than it sums columns
        return jnp.einsum("bt,btv->v", ones, d, precision="highest")

    def chunk(carry, part):
        sums, d_kernel, d_bias = carry
        h, y, w = part  # [B, t, D], [B, t], [B, t]
        logits = jnp.einsum("btd,vd->btv", h, cast, preferred_element_type=jnp.float32)
        if bias is not None:
            logits = logits + bias
        peak = jnp.max(logits, axis=-1, keepdims=True)
        exponentials = jnp.exp(logits - peak)
        normalizer = jnp.sum(exponentials, axis=-1, keepdims=True)
        log_z = (jnp.log(normalizer) + peak)[..., 0]
        picked = jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
        nll = log_z - picked
        loss = nll
        if label_smoothing:
            loss = (1 - label_smoothing) * nll + label_smoothing * (log_z - jnp.mean(logits, axis=-1))
        if z_loss:
            loss = loss + z_loss * jnp.square(log_z)
        found = (w * loss, w * nll, w * (picked >= peak[..., 0]), w)
        sums = Sums(*(total + jnp.sum(each, axis=1) for total, each in zip(sums, found, strict=True)))
        if not with_gradient:
            return (sums, d_kernel, d_bias), nll
        slope = 1 + 2 * z_loss * log_z if z_loss else jnp.ones_like(log_z)
        d_logits = exponentials * (w * slope / normalizer[..., 0])[..., None]  # of log Z
        if label_smoothing:
            d_logits = d_logits - (w * label_smoothing / size)[..., None]
        hit = jax.lax.broadcasted_iota(jnp.int32, d_logits.shape, 2) == y[..., None]  # a fused select, not a scatter
        d_logits = d_logits - jnp.where(hit, (w * (1 - label_smoothing))[..., None], 0)
        d_small = d_logits.astype(dtype)
        d_hidden = jnp.einsum("btv,vd->btd", d_small, cast, preferred_element_type=jnp.float32).astype(dtype)
        d_kernel = d_kernel + apart(of_kernel, h, d_small)
        if bias is not None:
            d_bias = d_bias + apart(of_bias, jnp.ones_like(w), d_logits)
        return (sums, d_kernel, d_bias), d_hidden

    zero = jnp.zeros((rows,), jnp.float32)
    d_kernel = jnp.zeros((shards, width, size), jnp.float32) if with_gradient else None
    d_bias = jnp.zeros((shards, size), jnp.float32) if with_gradient and bias is not None else None
    start = (Sums(zero, zero, zero, zero), d_kernel, d_bias)
    if chunks == 1:
        (sums, d_kernel, d_bias), made = chunk(start, (hidden, targets, weights))
    else:
        parts = (split(hidden), split(targets), split(weights))
        (sums, d_kernel, d_bias), made = jax.lax.scan(chunk, start, parts)
        made = jnp.moveaxis(made, 0, 1).reshape(rows, length, *made.shape[3:])
    sums = Sums(*map(jnp.sum, sums))
    if not with_gradient:
        return sums, made
    d_bias = None if d_bias is None else jnp.sum(d_bias, axis=0)
    d_kernel = jax.lax.optimization_barrier(d_kernel)  # else XLA:CPU asks for a bfloat16 product that it has not
    d_kernel = jnp.sum(jnp.swapaxes(d_kernel, 1, 2), axis=0)  # turned first: the sum is then scattered as it is
    return sums, (made, d_kernel, d_bias)
