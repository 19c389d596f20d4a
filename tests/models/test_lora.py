"""Low-rank updates act in the forward pass as they do when added to the kernels, whatever the dtype or remat."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models import lora, preset
from research.models.paths import flatten, unflatten
from research.models.build import example, parameter_shapes
from research.models.transformer import Transformer

SIZES = {"vocab_size": 60, "width": 32, "layers": 1, "decoder_layers": 0, "heads": 4, "head_width": 0, "mlp_width": 64, "max_length": 16}
FAMILIES = ["bert-nano", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2-nano", "t5-nano"))]
SCALE = 2.0


@functools.cache
def drawn(name):
    """An architecture and parameters of its shapes, kernels in blocks with updates beside them that are not zero."""
    arch = replace(preset(name), **SIZES)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * 0.2, jnp.float32)  # noqa: E731
    leaves = {path: draw(*leaf.shape) for path, leaf in flatten(parameter_shapes(arch)).items()}
    kernels = {path: leaf.shape for path, leaf in leaves.items() if "block_" in path and path.endswith("kernel")}
    updates = {path: draw(*leaf.shape) for path, leaf in lora.initial(kernels, 3, jax.random.key(0)).items()}
    return arch, leaves, updates


def inputs(arch):
    rng = np.random.default_rng(1)
    return {name: rng.integers(0, 60, (2, 8)).astype(np.int32) for name in example(arch)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("remat", [False, True])
def test_the_intercepted_forward_pass_is_that_of_folded_kernels(name, remat):
    arch, leaves, updates = drawn(name)
    model = Transformer(arch, remat=remat)
    both = unflatten(leaves | updates)
    with lora.updated(SCALE):
        found = jax.jit(lambda p: model.apply({"params": p}, **inputs(arch)))(both)
    plain = lora.folded(leaves | updates, SCALE)
    assert plain.keys() == leaves.keys()
    apply = jax.jit(lambda p: Transformer(arch).apply({"params": p}, **inputs(arch)))
    expected = apply(unflatten(plain))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))
    without = apply(both)  # nothing intercepts: the kernels alone
    assert float(jnp.abs(without - expected).max()) > 0.01


def test_gradients_are_those_of_the_folded_kernels_by_the_chain_rule_also_under_remat():
    arch, leaves, updates = drawn("bert-nano")

    @functools.partial(jax.jit, static_argnums=1)
    def loss_gradient(updates, remat):
        return jax.grad(loss)(updates, remat)

    def loss(updates, remat):
        with lora.updated(SCALE):
            out = Transformer(arch, remat=remat).apply({"params": unflatten(leaves | updates)}, **inputs(arch))
        return jnp.sum(jnp.sin(out))

    def folded_loss(updates):
        plain = unflatten(lora.folded(leaves | updates, SCALE))
        return jnp.sum(jnp.sin(Transformer(arch).apply({"params": plain}, **inputs(arch))))

    expected = jax.jit(jax.grad(folded_loss))(updates)
    for remat in (False, True):
        found = loss_gradient(updates, remat)
        largest = max(float(jnp.abs(g).max()) for g in expected.values())
        for path in updates:
            np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=1e-5 * largest)


def test_bfloat16_products_stay_near():
    arch, leaves, updates = drawn("bert-nano")
    params = {"params": unflatten(leaves | updates)}
    with lora.updated(SCALE):
        apply = lambda dtype: Transformer(arch, dtype=dtype).apply(params, **inputs(arch))  # noqa: E731
        exact, rough = (jax.jit(apply, static_argnums=0)(dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    assert float(jnp.abs(exact - rough).max()) < 0.05 * float(jnp.abs(exact).max())


def test_dropout_is_on_the_update_alone_and_every_module_has_its_own_mask():
    class Two(lora.nn.Module):
        @lora.nn.compact
        def __call__(self, x):
            return lora.Dense(4, name="a")(x), lora.Dense(4, name="b")(x)

    one = {"kernel": jnp.zeros((1000, 4)), "bias": jnp.ones(4)}
    one |= {"lora_a": jnp.ones((1000, 1)), "lora_b": jnp.ones((1, 4))}
    x = jnp.ones((2000, 1000))

    def apply(rate, deterministic, seed=0):
        with lora.updated(0.001, rate, deterministic):
            return Two().apply({"params": {"a": one, "b": one}}, x, rngs={"dropout": jax.random.key(seed)})

    a, b = apply(0.25, True)
    np.testing.assert_allclose(a, 2.0, rtol=1e-5)
    a, b = apply(0.25, False)
    assert np.any(a != b)
    np.testing.assert_allclose(np.mean(a), 2.0, atol=1e-3)  # what is kept is made up for
    np.testing.assert_allclose(np.var(a[:, 0]), 1e-6 * 1000 * 0.25 / 0.75, rtol=0.1)  # of Bernoulli / its mean
    assert np.all(a == apply(0.25, False)[0]) and np.any(a != apply(0.25, False, seed=1)[0])


@given(
    shapes=st.dictionaries(
        st.sampled_from([f"encoder/block_{i}/mlp/{name}/kernel" for i in range(3) for name in ("up", "down")]),
        st.sampled_from([(3, 5), (5, 3), (5, 5)]),  # each other shape takes a second to compile
        min_size=1,
    ),
    rank=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=8, deadline=None)
def test_updates_begin_as_nothing_and_each_as_it_would_alone(shapes, rank, seed):
    key = jax.random.key(seed)
    found = lora.initial(shapes, rank, key)
    for path, (inputs, outputs) in shapes.items():
        place = path.removesuffix("kernel")
        a, b = found[f"{place}lora_a"], found[f"{place}lora_b"]
        assert a.shape == (inputs, rank) and b.shape == (rank, outputs) and not b.any()
        assert np.all(np.abs(a) <= inputs**-0.5) and np.any(a)
        np.testing.assert_array_equal(a, lora.initial({path: shapes[path]}, rank, key)[f"{place}lora_a"])
    assert len(found) == 2 * len(shapes)
    if len({tuple(np.ravel(found[name])) for name in found if name.endswith("a")}) < len(shapes):
        pytest.fail("two updates are drawn alike")


def test_updates_are_drawn_as_peft_draws_them():
    a = lora.initial({"x/kernel": (400, 400)}, 50, jax.random.key(0))["x/lora_a"]
    np.testing.assert_allclose(np.std(a), 400**-0.5 / 3**0.5, rtol=0.02)  # of a uniform in +-1/sqrt(in)
    assert np.abs(a).max() > 0.99 * 400**-0.5
