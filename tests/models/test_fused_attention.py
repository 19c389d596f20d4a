"""Fused attention: the arguments that cuDNN gets mean what our own path computes, and it is cuDNN that gets them.

On the CPU the same arguments go to XLA's implementation of them; programs for CUDA are lowered, and not run.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.models import attention
from research.models.attention import attend, cross_mask, fused_attend, self_mask
from research.models.build import create, initial_parameters
from research.train import flops
from tests.train.test_meshes import FAMILIES, SIZE

SEGMENTS = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 2, 2, 2]])
SOURCE = jnp.asarray([[1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1]])  # nothing for the second document of the second row


@pytest.fixture
def xla(monkeypatch):
    monkeypatch.setattr(attention, "IMPLEMENTATION", "xla")


def operands(keys, dtype=jnp.float32):
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.normal(size=(2, n, 4, 8)), dtype) for n in (8, keys, keys)]


def relative():
    return jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 8, 8)), jnp.float32)


CASES = {
    "encoder": (8, {"mask": self_mask(8, SEGMENTS, causal=False)}),
    "decoder": (8, {"mask": self_mask(8, SEGMENTS, causal=True), "causal": True, "scale": 8**-0.5}),
    "prefix": (8, {"mask": self_mask(8, SEGMENTS, causal=True, prefix=jnp.arange(8) < jnp.asarray([[2], [4]]))}),
    "relative bias": (8, {"mask": self_mask(8, SEGMENTS, causal=False), "bias": relative()}),
    "one document": (8, {"bias": relative()}),
    "causal, one document": (8, {"mask": self_mask(8, None, causal=True), "causal": True}),
    "across": (6, {"mask": cross_mask(SEGMENTS, SOURCE)}),
    "across, one document": (6, {"mask": cross_mask(None, SOURCE)}),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_attend_computes_and_so_are_its_gradients(name, dtype, xla):
    keys, how = CASES[name]
    given = operands(keys, dtype)
    ours = {key: value for key, value in how.items() if key != "causal"}
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, 4, 8)), dtype)
    found, pull = jax.vjp(lambda *x: fused_attend(*x, **how), *given)
    exact = [x.astype(jnp.float32) for x in given]  # as bfloat16 rounded them
    wanted, push = jax.vjp(lambda *x: attend(*x, **ours), *exact)
    pairs = zip((found, *pull(weights)), (wanted, *push(weights.astype(jnp.float32))), strict=True)
    for a, b in pairs:
        assert a.dtype == dtype
        close = 1e-5 if dtype == jnp.float32 else 2**-6 * float(jnp.max(jnp.abs(b)))  # two units of the largest's last bit
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=close)
    if name == "across":
        assert not np.any(found[1, 5:])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_document_gets_nothing_of_another(dtype, xla):
    query, key, value = operands(8, dtype)
    first, second = SEGMENTS == 1, SEGMENTS == 2
    how = CASES["decoder"][1]
    before = fused_attend(query, key, value, **how)
    loud = lambda x: jnp.where(second[..., None, None], 100 * x + 7, x)  # noqa: E731
    after = fused_attend(loud(query), loud(key), loud(value), **how)
    np.testing.assert_array_equal(before[first], after[first])

    def own(*x):
        return jnp.sum(jnp.where(first[..., None, None], fused_attend(*x, **how), 0).astype(jnp.float32))

    for gradient in jax.grad(own, argnums=(0, 1, 2))(query, key, value):
        assert not np.any(gradient[second]) and (gradient.ndim == 4)
    assert np.any(np.asarray(jax.grad(own, argnums=2)(query, key, value)[first], np.float32))


def inputs(arch, length=8):
    """Packed rows of two documents, one with padding, as every objective makes them."""
    tokens = jnp.asarray(np.random.default_rng(3).integers(6, SIZE, (2, length)))
    found = {"tokens": tokens, "segments": SEGMENTS}
    if arch.structure == "encoder-decoder":
        found |= {"source": tokens[:, :6], "source_segments": SOURCE}
    return found


def loss(arch, dtype, fused):
    model = create(arch, dtype, fused=fused)
    states = lambda params: model.apply({"params": params}, **inputs(arch))  # noqa: E731
    return lambda params: jnp.sum(jnp.square(states(params).astype(jnp.float32)))


ALL = ["t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "gpt2", "bart"))]  # T5 has all there is


@pytest.mark.parametrize("family", ALL)
def test_models_give_the_same_states_and_gradients(family, xla):
    arch = FAMILIES[family]
    params = initial_parameters(arch, jax.random.key(0))
    value, gradient = jax.jit(jax.value_and_grad(loss(arch, jnp.float32, False)))(params)
    fused, fused_gradient = jax.jit(jax.value_and_grad(loss(arch, jnp.float32, True)))(params)
    np.testing.assert_allclose(fused, value, rtol=1e-5)
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - b, gradient, fused_gradient))
    assert difference <= 1e-5 * optax.tree.norm(gradient)


@pytest.fixture
def cuda(monkeypatch):
    """Let programs for CUDA be traced where there is none."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


@pytest.mark.parametrize(("family", "calls"), [("bert", 1), ("gpt2", 1), ("t5", 3), ("bart", 3)])
def test_programs_for_cuda_call_cudnn_forward_and_backward_once_for_each_attention(family, calls, cuda):
    arch = FAMILIES[family]
    params = jax.eval_shape(lambda: initial_parameters(arch, jax.random.key(0)))
    traced = jax.jit(jax.grad(loss(arch, jnp.bfloat16, True))).trace(params)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"@__cudnn\$fmhaScaleBiasSoftmax\(", text)) == calls
    assert len(re.findall(r"@__cudnn\$fmhaScaleBiasSoftmaxBackward\(", text)) == calls
    assert text.count("CAUSAL") == 2 * (family != "bert")
    plain = jax.jit(jax.grad(loss(arch, jnp.bfloat16, False))).trace(params)
    assert flops.of_products(traced.jaxpr.jaxpr) == flops.of_products(plain.jaxpr.jaxpr)
    other = plain.lower(lowering_platforms=("cuda",)).as_text()
    softmax = r"stablehlo.exponential [^\n]*x8x[68]xf32>"  # of scores; GELU's gradient has one of its own
    assert re.search(softmax, other) and "cudnn" not in other and not re.search(softmax, text)


def test_odd_lengths_and_what_is_decoded_step_by_step_take_our_own_path(cuda):
    arch = FAMILIES["gpt2"]
    params = jax.eval_shape(lambda: initial_parameters(arch, jax.random.key(0)))
    model = create(arch, jnp.bfloat16, fused=True)
    odd = jax.jit(lambda p: model.apply({"params": p}, jnp.ones((1, 7), jnp.int32))).trace(params)
    assert "cudnn" not in odd.lower(lowering_platforms=("cuda",)).as_text()
