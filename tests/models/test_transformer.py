"""What a position may depend on, and that every way to compute the model agrees."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.arch import base
from research.models.heads import logits, output_projection
from research.models.paths import flatten
from research.models.build import example, parameter_count, parameter_shapes
from research.models.transformer import Transformer
from research.types import UserError
from tests.models.oracles import ARCHS, influence

SEGMENTS = [1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 0, 0]
PREFIX = [True, True, False, False, True, True, True, False, False, False, False, False]
LENGTH = len(SEGMENTS)
BOTH = [name for name, arch in ARCHS.items() if arch.structure == "encoder-decoder"]


# One block a stack: what blocks share is what is tested, and compilation is what costs.
ARCHS = {name: replace(arch, layers=1, decoder_layers=0) for name, arch in ARCHS.items()}


@functools.cache
def parameters(arch):
    """Random parameters, in which no bias or norm is trivial."""
    draw = np.random.default_rng(0)
    noise = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), jnp.float32), parameter_shapes(arch))
    return jax.tree_util.tree_map_with_path(lambda path, x: x + (path[-1].key == "scale"), noise)


def row(arch, segments=SEGMENTS):
    """Inputs of one row in which every position, of source and target, holds a token of its own."""
    tokens = jnp.arange(LENGTH, dtype=jnp.int32)[None]
    inputs = {"tokens": tokens, "segments": jnp.asarray([segments])}
    if arch.structure == "encoder-decoder":
        inputs |= {"source": tokens + LENGTH, "source_segments": jnp.asarray([segments])}
    return inputs


def gradients(model, params, inputs):
    """Return float[T, V, D]: the gradient of a projection of each position's state by the table of tokens."""
    draw = jax.random.normal(jax.random.key(2), (LENGTH, model.arch.width))

    def read(table, position):
        # States, not logits: a tied projection would reach every token.
        states = model.apply({"params": params | {"tokens": {"embedding": table}}}, **inputs, method="states")[0]
        return jnp.sum(states[position].astype(jnp.float32) * draw[position])

    table = params["tokens"]["embedding"]
    one = jax.jit(jax.grad(read))
    return jnp.stack([one(table, position) for position in range(LENGTH)])


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        *((name, {"dtype": jnp.bfloat16, "remat": True}) for name in (*ARCHS, "gpt2-prefix") if name != "t5-v1.1"),
        ("gpt2-prefix", {}),
        ("bart", {}),
    ],
)
def test_nothing_leaks(name, rest):
    """From the future, from outside the prefix, from another document or from padding: exactly zero, both ways."""
    name, prefix = name.removesuffix("-prefix"), PREFIX if name.endswith("-prefix") else None
    arch = ARCHS[name]
    inputs = row(arch) | ({} if prefix is None else {"prefix": jnp.asarray([prefix])})
    reached = np.any(np.asarray(gradients(Transformer(arch, **rest), parameters(arch), inputs)) != 0, axis=-1)
    np.testing.assert_array_equal(reached[:, :LENGTH], influence(arch, SEGMENTS, prefix))
    if name in BOTH:
        same = np.equal.outer(SEGMENTS, SEGMENTS)
        np.testing.assert_array_equal(reached[:, LENGTH : 2 * LENGTH], same)
    assert not reached[:, 2 * LENGTH :].any()


def test_a_target_without_a_source_sees_none_of_another_document():
    arch = ARCHS["bart"]
    inputs = row(arch) | {"source_segments": jnp.asarray([[1] * 6 + [3] * 6])}
    found = np.asarray(gradients(Transformer(arch), parameters(arch), inputs))
    assert np.isfinite(found).all()
    reached = np.any(found != 0, axis=-1)[:, LENGTH : 2 * LENGTH]
    assert not reached[4:9].any() and not reached[:4, 6:].any() and reached[:4, :6].all()


@pytest.mark.parametrize("name", ["roberta", "gpt2", "t5"])
def test_ways_to_compute_agree(name):
    """Remat changes nothing; selected positions are those of the whole; one whole document needs no segments;
    a row of padding is finite, and so are its gradients; bfloat16 is near."""
    arch = ARCHS[name]
    params = parameters(arch)
    inputs = row(arch, [1] * LENGTH)
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), inputs)
    padded = inputs | {key: value.at[1].set(0) for key, value in inputs.items() if key.endswith("segments")}

    def run(model, inputs, **rest):
        def loss(params):
            states = model.apply({"params": params}, **inputs, **rest)
            return jnp.mean(jnp.square(states.astype(jnp.float32))), states

        (_, states), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states, gradient)))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
        return states, gradient

    model = Transformer(arch)
    plain, gradient = run(model, padded)
    if name == "gpt2":
        again, gradient_again = run(Transformer(arch, remat=True), padded)
        np.testing.assert_allclose(plain, again, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, gradient_again)

    without = {key: value for key, value in inputs.items() if not key.endswith("segments")}
    select = jnp.asarray([[3, 0, 0], [7, 11, 2]])

    @jax.jit
    def others(params):
        half = Transformer(arch, jnp.bfloat16)
        calls = ((model, without), (model, padded | {"select": select}), (half, padded))
        return [one.apply({"params": params}, **inputs) for one, inputs in calls]

    whole, some, half = others(params)
    np.testing.assert_allclose(plain[0], whole[0], atol=2e-6)
    np.testing.assert_allclose(some, np.take_along_axis(plain, np.asarray(select)[..., None], 1), atol=1e-6)
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - plain).mean() < 0.05 * np.abs(plain).mean()


def test_dropout_follows_its_key_and_deterministic_turns_it_off():
    arch = ARCHS["bert"]
    params, inputs = parameters(arch), row(arch)
    run = jax.jit(
        lambda key: Transformer(arch).apply({"params": params}, **inputs, deterministic=False, rngs={"dropout": key})
    )
    one, same, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 and np.isfinite(one).all()
    off = Transformer(replace(arch, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0))
    # No rng is asked for where every rate is 0.
    plain = jax.jit(off.apply, static_argnames="deterministic")
    np.testing.assert_array_equal(
        plain({"params": params}, **inputs, deterministic=False), plain({"params": params}, **inputs)
    )


def test_logits_follow_the_output_projection_tied_or_not():
    for name, tied in (("bart", True), ("t5-v1.1", False)):
        arch = ARCHS[name]
        params, inputs = parameters(arch), row(arch)
        kernel, bias = output_projection(arch, params)
        assert kernel.shape == (arch.vocab_size, arch.width)
        assert (kernel is params["tokens"]["embedding"]) is tied
        assert (bias is None) is not tied
        model = Transformer(arch)
        hidden, out = jax.jit(lambda p, x: (model.apply({"params": p}, **x), logits(model, p, **x)))(params, inputs)
        expected = hidden @ kernel.T + (0 if bias is None else bias)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_the_pooler_has_parameters_and_reads_the_first_token():
    arch = base(ARCHS["bert"])
    params = parameters(arch)
    assert set(params) == {"tokens", "encoder", "pooler"}
    states = np.random.default_rng(1).normal(size=(2, 5, arch.width)).astype(np.float32)
    pooled = Transformer(arch).apply({"params": params}, states[:, 0], method="pool")
    expected = np.tanh(states[:, 0] @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_paths_are_our_own_words():
    found = {path for path in flatten(parameter_shapes(ARCHS["t5-v1.1"]))}
    attention = {f"{part}/kernel" for part in ("query", "key", "value", "out")}
    expected = {"tokens/embedding", "head/kernel"}
    for stack, kinds in (("encoder", ("self",)), ("decoder", ("self", "cross"))):
        expected |= {f"{stack}/relative/embedding", f"{stack}/final_norm/scale", f"{stack}/block_0/mlp_norm/scale"}
        expected |= {f"{stack}/block_0/mlp/{part}/kernel" for part in ("up", "gate", "down")}
        for kind in kinds:
            expected |= {f"{stack}/block_0/{kind}_attention/{leaf}" for leaf in attention}
            expected |= {f"{stack}/block_0/{kind}_attention_norm/scale"}
    assert found == expected


def test_what_cannot_be_built_or_read_is_said_in_one_line():
    arch = ARCHS["gpt2"]
    with pytest.raises(UserError, match="max_length 20"):
        jax.eval_shape(lambda: Transformer(arch).init(jax.random.key(0), **example(arch, length=21)))
    with pytest.raises(UserError, match="vocab_size is 0"):
        parameter_count(replace(arch, vocab_size=0))
    with pytest.raises(UserError, match="divisible"):
        parameter_count(replace(arch, heads=5))
