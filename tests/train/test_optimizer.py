"""Schedules by their definitions; update rules by what they must and must not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from research.config import Optimizer, Schedule
from research.train.optimizer import create, learning_rate

STEPS, PEAK = 100, 2e-3


def rates(**fields):
    rate = learning_rate(Schedule(**fields), PEAK, STEPS)
    return np.array([float(rate(n)) for n in range(STEPS)])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt", "wsd", "staircase"])
def test_warmup_rises_from_its_first_update_to_the_peak(name):
    found = rates(name=name, warmup=10)
    np.testing.assert_allclose(found[:10], PEAK * np.arange(1, 11) / 10, rtol=1e-5)
    assert found.max() == pytest.approx(PEAK)
    assert np.all(np.diff(found[10:]) <= 1e-12)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt", "wsd", "staircase"])
@pytest.mark.parametrize("warmup", [0, 1, STEPS, 10 * STEPS])
def test_any_warmup_gives_every_update_a_positive_finite_rate(name, warmup):
    found = rates(name=name, warmup=warmup)
    assert np.all(np.isfinite(found)) and np.all(found > 0)


def test_shapes_after_the_warmup():
    linear = rates(name="linear", warmup=0, floor=0.1)
    np.testing.assert_allclose(linear, PEAK * (1 - 0.9 * np.arange(STEPS) / STEPS), rtol=1e-5)
    cosine = rates(name="cosine", warmup=0)
    np.testing.assert_allclose(cosine, PEAK * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)) / 2, rtol=1e-4)
    root = rates(name="inverse_sqrt", warmup=25)
    np.testing.assert_allclose(root[25:], PEAK * np.sqrt(25 / np.arange(26, STEPS + 1)), rtol=1e-5)
    stable = rates(name="wsd", warmup=10, decay=0.2)
    np.testing.assert_allclose(stable[10:80], PEAK, rtol=1e-6)
    np.testing.assert_allclose(stable[80:], PEAK * (1 - np.arange(20) / 20), rtol=1e-4)
    t5 = rates(name="inverse_sqrt", warmup=25, warmup_shape="constant")  # 1 / sqrt(max(n, warmup)), up to its peak
    np.testing.assert_allclose(t5, PEAK * np.sqrt(25 / np.maximum(np.arange(1, STEPS + 1), 25)), rtol=1e-5)
    stairs = rates(name="staircase", warmup=10, decay=0.6, stairs=3, factor=0.5)  # 40 steps at the peak, three stairs of 20
    np.testing.assert_allclose(stairs[10:40], PEAK, rtol=1e-6)
    np.testing.assert_allclose(stairs[40:], PEAK * 0.5 ** (1 + np.arange(60) // 20), rtol=1e-6)


def parameters():
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    block = {"mlp": {"up": {"kernel": array(8, 16), "bias": array(16)}}, "mlp_norm": {"scale": array(8), "bias": array(8)}}
    return {"tokens": {"embedding": array(32, 8)}, "encoder": {"block_0": block}, "head": {"bias": array(32)}}


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon", "sgd"])
def test_decay_reaches_matrices_only_and_is_the_same_for_every_rule(name):
    params = parameters()
    zero = jax.tree.map(jnp.zeros_like, params)
    rule = create(Optimizer(name=name, learning_rate=1.0, weight_decay=0.1), optax.constant_schedule(1.0))
    updates, _ = rule.update(zero, rule.init(params), params)
    np.testing.assert_allclose(updates["tokens"]["embedding"], -0.1 * params["tokens"]["embedding"], rtol=1e-5)
    kernel = params["encoder"]["block_0"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(updates["encoder"]["block_0"]["mlp"]["up"]["kernel"], -0.1 * kernel, rtol=1e-5)
    assert not np.any(updates["encoder"]["block_0"]["mlp"]["up"]["bias"])
    assert not np.any(updates["encoder"]["block_0"]["mlp_norm"]["scale"])
    assert not np.any(updates["head"]["bias"])


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon", "sgd"])
def test_every_rule_descends_a_quadratic(name):
    params = parameters()
    goal = jax.tree.map(lambda x: x + 1.0, params)
    distance = lambda p: sum(jnp.sum(jnp.square(a - b)) for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(goal)))  # noqa: E731
    rule = create(Optimizer(name=name, weight_decay=0.0, clip=0.0), optax.constant_schedule(0.06))

    @jax.jit
    def step(params, state):
        updates, state = rule.update(jax.grad(distance)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, first = rule.init(params), distance(params)
    for _ in range(60):
        params, state = step(params, state)
    assert distance(params) < 0.2 * first


def test_adamw_equals_optax_adamw():
    params = parameters()
    gradients = jax.tree.map(jnp.sin, params)
    ours = create(Optimizer(weight_decay=0.1, no_decay="", clip=0.0), optax.constant_schedule(1e-3))
    theirs = optax.adamw(1e-3, weight_decay=0.1)
    mine, _ = ours.update(gradients, ours.init(params), params)
    wanted, _ = theirs.update(gradients, theirs.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, wanted)


def test_adafactor_with_relative_steps_is_optax_adafactor():
    rng = np.random.default_rng(0)
    params = {"factored": jnp.asarray(rng.normal(size=(128, 256)), jnp.float32), "whole": jnp.zeros(8)}
    gradients = jax.tree.map(lambda x: jnp.sin(1 + x), params)
    config = Optimizer("adafactor", parameter_scale=True, weight_decay=0.0, clip=0.0)
    ours = create(config, optax.constant_schedule(1e-2))
    theirs = optax.adafactor(1e-2)
    mine, wanted = ours.init(params), theirs.init(params)
    for _ in range(2):
        update, mine = ours.update(gradients, mine, params)
        expected, wanted = theirs.update(gradients, wanted, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update, expected)


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adam():
    params = parameters()
    gradients = jax.tree.map(jnp.sin, params)
    rule = create(Optimizer(name="muon", weight_decay=0.0, clip=0.0), optax.constant_schedule(1.0))
    moves, _ = rule.update(gradients, rule.init(params), params)
    adam = optax.nadamw(1.0, weight_decay=0.0)
    wanted, _ = adam.update(gradients, adam.init(params), params)
    np.testing.assert_allclose(moves["tokens"]["embedding"], wanted["tokens"]["embedding"], rtol=1e-5)
    update = np.asarray(moves["encoder"]["block_0"]["mlp"]["up"]["kernel"])
    singular = np.linalg.svd(update, compute_uv=False)
    assert singular.max() / singular.min() < 2.5  # Newton-Schulz brings all singular values near one another
    assert np.sqrt(np.mean(update**2)) == pytest.approx(0.2, rel=0.35)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_muon_is_optax_muon_once_momentum_has_forgotten_its_start(shape):
    # In between, optax corrects the momentum for its start at zero, which the published rule does not.
    first = {"block_0": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}}
    ours = create(Optimizer(name="muon", weight_decay=0.0, clip=0.0), optax.constant_schedule(1.0))
    theirs = optax.contrib.muon(1.0, consistent_rms=0.2)

    @jax.jit
    def both(step, mine, wanted):
        gradients = jax.tree.map(lambda g: g * jnp.cos(step + g), first)
        update, mine = ours.update(gradients, mine, first)
        expected, wanted = theirs.update(gradients, wanted, first)
        off = optax.tree.norm(jax.tree.map(jnp.subtract, update, expected)) / optax.tree.norm(expected)
        return off, mine, wanted

    off, mine, wanted = both(0, ours.init(first), theirs.init(first))
    assert off < 1e-4
    for step in range(1, 300):
        off, mine, wanted = both(step, mine, wanted)
    assert off < 1e-3


def test_clipping_bounds_the_global_norm_before_the_rule():
    params = parameters()
    gradients = jax.tree.map(lambda x: 1e6 * x, params)
    rule = create(Optimizer(name="lion", weight_decay=0.0, clip=1.0), optax.constant_schedule(1.0))
    _, state = rule.update(gradients, rule.init(params), params)
    momentum = state[1].mu
    assert float(optax.tree.norm(momentum)) == pytest.approx(0.001, rel=1e-3)  # (1 - b2) x a gradient of norm 1
