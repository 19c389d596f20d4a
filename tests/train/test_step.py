"""The step is the same whatever the microbatches, the devices and the mesh; what is bad is never applied."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.config import Compute, Loss, Mesh, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models.arch import Arch
from research.objectives.causal import Causal
from research.objectives.denoising import Denoising
from research.objectives.masked import Masked
from research.objectives.mixture import Mixture
from research.objectives.prefix import Prefix
from research.objectives.span_corruption import SpanCorruption
from research.train import sharding
from research.train.step import gradient_sums, trainer
from research.types import Vocabulary

SIZE, LENGTH, ROWS = 96, 24, 8
WORDS = Vocabulary(
    size=SIZE,
    pad=0,
    eos=1,
    mask=2,
    sentinels=np.arange(SIZE - 1, SIZE - 21, -1, dtype=np.int32),
    modes=np.arange(3, 6, dtype=np.int32),
    special=np.isin(np.arange(SIZE), [0, 1, 2, 3, 4, 5, *range(SIZE - 20, SIZE)]),
    continues=np.arange(SIZE) % 3 == 0,
    ends_sentence=np.arange(SIZE) % 10 == 9,
)
SHAPE = {"width": 32, "heads": 4, "mlp_width": 64, "layers": 1, "vocab_size": SIZE, "max_length": 64}
ENCODER = Arch(**SHAPE)
DECODER = Arch(
    **SHAPE, family="gpt2", structure="decoder", norm_first=True, final_norm=True, embedding_norm=False,
    head_transform=False, head_bias=False, activation="gelu_tanh",
)
T5 = Arch(
    **SHAPE, family="t5", structure="encoder-decoder", positions="relative", norm="rms", norm_first=True, final_norm=True,
    embedding_norm=False, bias=False, head_transform=False, head_bias=False, activation="relu", scale_attention=False,
    scale_logits=True,
)
PAIRS = {
    "masked": (ENCODER, Masked()),
    "causal": (DECODER, Causal()),
    "prefix": (DECODER, Prefix()),
    "span_corruption": (T5, SpanCorruption()),
    "denoising": (dataclasses.replace(T5, positions="learned"), Denoising()),
    "mixture": (T5, Mixture()),
}


def make(name, *, dropout=0.0, **fields):
    arch, objective = PAIRS[name]
    arch = dataclasses.replace(arch, dropout=dropout, attention_dropout=dropout)
    fields = {"steps": 100, "batch_size": ROWS} | fields
    return Run("test", arch, objective, Data(length=LENGTH), schedule=Schedule("constant", 0), **fields)


def record(run, seed=0):
    """Rows with two documents each and some padding at the end of the last ones."""
    rng = np.random.default_rng(seed)
    length = LENGTH + run.objective.lookahead
    tokens = rng.integers(6, SIZE - 20, (ROWS, length)).astype(np.int32)
    segments = 1 + (np.arange(length) >= 10).astype(np.int32) * np.ones((ROWS, 1), np.int32)
    segments[-2:, -5:] = 0
    return {"tokens": tokens, "segments": segments}


def mesh_of(run):
    mesh = run.mesh if run.mesh.data else dataclasses.replace(run.mesh, data=1)
    return sharding.create_mesh(mesh)


@functools.cache
def gradients(run):
    """The loss and gradient of one batch as the step computes them, from the run's first parameters."""
    mesh = mesh_of(run)
    compiled = trainer(run, WORDS, mesh)
    state = compiled.initialize()._replace(step=jnp.int32(3))

    @jax.jit
    def sums(state, rows):
        found, gradient, _ = gradient_sums(run, compiled.model, WORDS, mesh, state, rows)
        return found.total / found.weight, found.weight, jax.tree.map(lambda g: g / found.weight, gradient)

    return jax.device_get(sums(state, compiled.place(record(run))))


def assert_same(run, other, rtol=1e-6):
    loss, weight, gradient = gradients(run)
    other_loss, other_weight, other_gradient = gradients(other)
    assert weight == other_weight > 0
    np.testing.assert_allclose(loss, other_loss, rtol=rtol)
    norm = float(optax.tree.norm(gradient))
    worst = max(float(np.max(np.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (gradient, other_gradient)), strict=True))
    assert worst <= 1e-5 * norm


FAST = ("causal",)  # to compile; the others are in `make slow`


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS])
def test_four_devices_and_two_microbatches_equal_one_of_each(name):
    assert_same(make(name), make(name, mesh=Mesh(data=4), microbatches=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("mesh", "microbatches"),
    [(Mesh(1), 4), (Mesh(8), 1), (Mesh(4), 1), (Mesh(1, 4, 1), 1), (Mesh(1, 1, 2), 1), (Mesh(2, 2, 2), 2)],
)
def test_any_mesh_equals_one_device(name, mesh, microbatches):
    assert_same(make(name), make(name, mesh=mesh, microbatches=microbatches))


@pytest.mark.slow
def test_four_microbatches_alone_and_two_devices_alone_equal_one():
    assert_same(make("masked"), make("masked", microbatches=4))
    assert_same(make("masked"), make("masked", mesh=Mesh(data=2)))


def test_a_mesh_of_all_three_axes_equals_one_device_dropout_and_all():
    assert_same(make("prefix", dropout=0.1), make("prefix", dropout=0.1, mesh=Mesh(2, 2, 2)))


def test_parameters_are_laid_out_by_the_table():
    run = make("causal", mesh=Mesh(1, 2, 2))
    shapes = trainer(run, WORDS, mesh_of(run)).shapes
    up = shapes.trainable["decoder"]["block_0"]["mlp"]["up"]["kernel"].sharding
    assert up.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    moments = [x for x in jax.tree.leaves(shapes.opt_state) if x.shape == (32, 64)]
    assert moments and all(x.sharding.spec == up.spec for x in moments)
    assert shapes.trainable["decoder"]["final_norm"]["scale"].sharding.is_fully_replicated


def flops(run, rows):
    compiled = trainer(run, WORDS, mesh_of(run))
    lowered = compiled.update.lower(compiled.shapes, {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in rows.items()})
    return lowered.compile().cost_analysis()["flops"]


@pytest.mark.parametrize("mesh", [Mesh(4, 1, 1), Mesh(1, 4, 1)])
def test_devices_that_share_rows_share_the_work(mesh):
    small = Optimizer(name="lion", clip=0.0)  # the update itself is every device's
    one, four = (make("causal", optimizer=small, mesh=m) for m in (Mesh(1), mesh))
    wide = lambda run: dataclasses.replace(run, batch_size=32, data=Data(length=64))  # noqa: E731
    rows = {"tokens": np.zeros((32, 65), np.int32), "segments": np.ones((32, 65), np.int32)}
    assert flops(wide(four), rows) <= 1.1 / 4 * flops(wide(one), rows)


def states(run, count=3, compiled=None):
    compiled = compiled or trainer(run, WORDS, mesh_of(run))
    state, rows, losses = compiled.initialize(), record(run), []
    for _ in range(count):
        state, metrics = compiled.update(state, compiled.place(rows))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def test_the_step_is_a_pure_function_of_seed_and_step():
    run = make("masked", dropout=0.1)
    compiled = trainer(run, WORDS, mesh_of(run))
    (first, losses), (second, again) = states(run, compiled=compiled), states(run, compiled=compiled)
    assert losses == again and len(set(losses)) == 3  # the same batch, but new masks and dropout each step
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_loss_that_is_not_finite_changes_nothing():
    run = make("causal")
    compiled = trainer(run, WORDS, mesh_of(run))
    state = compiled.initialize()
    broken = jax.tree.map(lambda x: x, state.trainable)
    broken["tokens"]["embedding"] = broken["tokens"]["embedding"].at[10].set(jnp.nan)
    kept = jax.device_get(state._replace(trainable=broken))
    after, metrics = compiled.update(state._replace(trainable=broken), compiled.place(record(run)))
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), kept)


@functools.cache
def averaged():
    return states(make("causal", ema=0.9), count=1)


def test_averages_follow_the_parameters():
    run = make("causal", ema=0.9)
    state, _ = averaged()
    start = jax.device_get(trainer(run, WORDS, mesh_of(run)).initialize()).trainable
    jax.tree.map(
        lambda average, first, now: np.testing.assert_allclose(average, 0.9 * first + 0.1 * now, rtol=1e-5, atol=1e-7),
        state.averages,
        start,
        state.trainable,
    )


def test_the_plain_mean_of_the_last_parameters():
    run = make("causal", average=0.5, steps=6)  # of updates 3, 4 and 5
    compiled = trainer(run, WORDS, mesh_of(run))
    state, seen = compiled.initialize(), []
    for _ in range(6):
        state, _ = compiled.update(state, compiled.place(record(run)))
        seen.append(jax.device_get(state.trainable))
        wanted = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *seen[min(3, len(seen) - 1) :])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), jax.device_get(state.averages), wanted)


def test_bfloat16_and_remat_stay_near_float32():
    loss, _, gradient = gradients(make("causal"))
    assert_same(make("causal"), make("causal", compute=Compute(remat=True)))
    rough, _, rough_gradient = gradients(make("causal", compute=Compute(dtype="bfloat16")))
    np.testing.assert_allclose(rough, loss, rtol=5e-3)
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - b, gradient, rough_gradient))
    assert difference < 0.05 * optax.tree.norm(gradient)
    assert all(g.dtype == np.float32 for g in jax.tree.leaves(rough_gradient))


def test_regularisers_are_trained_on_but_not_reported_as_loss():
    run = make("causal", loss=Loss(label_smoothing=0.1, z_loss=1e-3), ema=0.9)
    compiled = trainer(run, WORDS, mesh_of(run))
    _, metrics = compiled.update(compiled.initialize(), compiled.place(record(run)))
    _, plain = averaged()
    np.testing.assert_allclose(metrics["loss"], plain[0], rtol=1e-6)
    assert metrics["regularized_loss"] > metrics["loss"]
