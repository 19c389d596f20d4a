"""The fused vocabulary loss against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.train import loss
from research.train.loss import vocabulary_loss


def problem(rows=3, length=7, width=8, size=33, seed=0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(rows, length, width)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, width)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=size), jnp.float32)
    targets = jnp.asarray(rng.integers(0, size, (rows, length)), jnp.int32)
    weights = jnp.asarray(rng.random((rows, length)) * (rng.random((rows, length)) < 0.7), jnp.float32)
    return hidden, kernel, bias, targets, weights


def plain(hidden, kernel, bias, targets, weights, label_smoothing=0.0, z_loss=0.0):
    """The definition, with [B, T, V] logits and optax's cross-entropy."""
    scores = hidden @ kernel.T + (0 if bias is None else bias)
    labels = optax.smooth_labels(jax.nn.one_hot(targets, kernel.shape[0]), label_smoothing)
    total = optax.softmax_cross_entropy(scores, labels) + z_loss * jnp.square(jax.nn.logsumexp(scores, axis=-1))
    return jnp.sum(weights * total)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 33 * 4 * 2, 2**30])  # 7 chunks, 4 (padded), 1
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.1, 0.01)])
def test_value_and_gradient_equal_the_plain_loss(monkeypatch, chunk_bytes, with_bias, label_smoothing, z_loss):
    monkeypatch.setattr(loss, "chunk_bytes", lambda platform: chunk_bytes)
    hidden, kernel, bias, targets, weights = problem()
    bias = bias if with_bias else None
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    arguments = (0, 1, 2) if with_bias else (0, 1)

    def fused(*parts):
        return vocabulary_loss(*parts, targets, weights, **options).total * 0.37

    value, gradients = jax.value_and_grad(fused, argnums=arguments)(hidden, kernel, bias)
    expected, wanted = jax.value_and_grad(lambda *p: plain(*p, targets, weights, **options) * 0.37, argnums=arguments)(
        hidden, kernel, bias
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    norm = optax.tree.norm(wanted)
    for got, want in zip(gradients, wanted, strict=True):
        assert float(jnp.max(jnp.abs(got - want))) <= 1e-5 * float(norm)


@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_gradients_of_low_precision_are_near_the_plain_ones(monkeypatch, chunk_bytes):
    monkeypatch.setattr(loss, "chunk_bytes", lambda platform: chunk_bytes)
    hidden, kernel, bias, targets, weights = problem()
    fused = lambda h, k, b: vocabulary_loss(h.astype(jnp.bfloat16), k, b, targets, weights).total  # noqa: E731
    found = jax.jit(jax.grad(fused, argnums=(0, 1, 2)))(hidden, kernel, bias)
    wanted = jax.grad(lambda *p: plain(*p, targets, weights), argnums=(0, 1, 2))(hidden, kernel, bias)
    for got, want in zip(found, wanted, strict=True):
        assert optax.tree.norm(got - want) < 0.02 * optax.tree.norm(want)


def test_sums_count_what_is_scored():
    hidden, kernel, bias, targets, weights = problem()
    sums = vocabulary_loss(hidden, kernel, bias, targets, weights, label_smoothing=0.2, z_loss=0.1)
    scores = hidden @ kernel.T + bias
    right = (jnp.argmax(scores, axis=-1) == targets) * weights
    np.testing.assert_allclose(sums.weight, weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.correct, right.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.nll, plain(hidden, kernel, bias, targets, weights), rtol=1e-5)


def test_unscored_positions_have_no_gradient_even_when_extreme():
    hidden, kernel, bias, targets, weights = problem()
    hidden = hidden.at[0, 0].set(1e4)
    weights = weights.at[0, 0].set(0.0)
    gradient = jax.grad(lambda h: vocabulary_loss(h, kernel, bias, targets, weights).total)(hidden)
    assert not np.any(np.asarray(gradient[0, 0]))
    assert np.all(np.isfinite(gradient))


def test_logits_of_all_positions_never_exist(monkeypatch):
    monkeypatch.setattr(loss, "chunk_bytes", lambda platform: 2**16)
    rows, length, width, size = 8, 64, 16, 1024
    hidden, kernel, bias, targets, weights = problem(rows, length, width, size)
    graded = jax.jit(jax.grad(lambda h, k: vocabulary_loss(h, k, bias, targets, weights).total, argnums=(0, 1)))
    memory = graded.lower(hidden, kernel).compile().memory_analysis()
    assert memory.temp_size_in_bytes < rows * length * size * 4 / 4  # a quarter of what [B, T, V] takes


def test_low_precision_products_keep_float32_sums():
    hidden, kernel, bias, targets, weights = problem(rows=4, length=16, width=32, size=128)
    exact = vocabulary_loss(hidden, kernel, bias, targets, weights)
    rough = vocabulary_loss(hidden.astype(jnp.bfloat16), kernel, bias, targets, weights)
    assert rough.total.dtype == jnp.float32
    np.testing.assert_allclose(rough.total, exact.total, rtol=2e-2)
