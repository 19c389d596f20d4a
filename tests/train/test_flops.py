"""Floating-point operations are those that a pencil finds, and a trained run's run.json has them for `report`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from research.config import Adapter, Compute, Mesh, Optimizer, from_json
from research.models.ladder import FeedForward, Recurrent
from research.report import cells, logs, runs, tables
from research.train import flops, loop, step
from tests.train import small
from tests.train.test_step import LENGTH, ROWS, SIZE, WORDS, make, mesh_of, record

N = 4
SQUARE = jax.ShapeDtypeStruct((N, N), np.float32)
PRODUCT = 2 * N**3


def counted(function, *shapes):
    return flops.of_products(jax.make_jaxpr(function)(*shapes or [SQUARE]).jaxpr)


def test_two_dense_layers_forward_and_backward():
    rows, inputs, hidden, outputs = 5, 7, 11, 3

    def loss(first, second, x):
        return jnp.sum(jax.nn.relu(x @ first) @ second)

    sizes = [(inputs, hidden), (hidden, outputs), (rows, inputs)]
    shapes = [jax.ShapeDtypeStruct(size, np.float32) for size in sizes]
    forward = 2 * rows * (inputs * hidden + hidden * outputs)
    backward = 2 * rows * (inputs * hidden + 2 * hidden * outputs)  # the inputs are given no gradient
    assert counted(loss, *shapes) == forward
    assert counted(jax.value_and_grad(loss, (0, 1)), *shapes) == forward + backward


def test_batched_products_over_several_axes():
    a, b = jax.ShapeDtypeStruct((2, 3, 5, 7), np.float32), jax.ShapeDtypeStruct((7, 2, 11, 5), np.float32)
    assert counted(lambda a, b: jnp.einsum("bijk,kbmj->bmi", a, b), a, b) == 2 * 2 * 3 * 11 * 5 * 7


def turned(x, times):
    return jax.lax.fori_loop(0, times, lambda _, x: x @ x, x)


def chosen(x, *branches):
    return jax.lax.switch(x[0, 0].astype(int), branches, x)


def sharded(x):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "x")
    each = lambda x, whole: x @ whole  # noqa: E731
    return jax.shard_map(each, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x"))(x, x)


@jax.custom_vjp
def cubed(x):
    return x @ x @ x


cubed.defvjp(lambda x: (cubed(x), x), lambda x, slope: (slope @ x,))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=6)[0], 6),
        (lambda x: jax.lax.scan(lambda x, _: (turned(x, 3), None), x, length=2)[0], 6),
        (lambda x: turned(x, 5), 5),
        (lambda x: jax.lax.map(lambda row: row @ x, x), 1),  # N vectors times a matrix
        (lambda x: chosen(x, lambda x: x, lambda x: x @ x @ x, lambda x: x @ x), 2),
        (lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x), 1),
        (jax.jit(jax.checkpoint(lambda x: x @ x)), 1),
        (sharded, 1),
        (cubed, 2),
        (jax.value_and_grad(lambda x: jnp.sum(cubed(x))), 3),
        (lambda x: (x @ x, x)[1] * 2, 0),  # nothing needs the product
        (lambda x: jnp.tanh(x * x + 1), 0),
    ],
    ids="scan nested loop map branches while remat shards custom own-gradient unused elements".split(),
)
def test_what_holds_products_counts_them(function, products):
    assert counted(function) == products * PRODUCT


def test_a_kind_of_product_that_is_not_counted_is_refused():
    image, kernel = jax.ShapeDtypeStruct((1, 1, 8), np.float32), jax.ShapeDtypeStruct((1, 1, 3), np.float32)
    with pytest.raises(NotImplementedError, match="conv_general_dilated"):
        counted(lambda x, k: jax.lax.conv(x, k, (1,), "SAME"), image, kernel)


# --- whole steps ------------------------------------------------------------------------------------------------------


def per_step(run, rows=None):
    return flops.per_step(step.trainer(run, WORDS, mesh_of(run)), rows or record(run))


@functools.cache
def of(name, **fields):
    return per_step(make(name, **fields))


def by_hand(run):
    """6 for each token and parameter that multiplies it; 12 for each query, key it is compared with, and feature."""
    arch, (source, target, scored) = run.arch, run.objective.lengths(run.data.length)
    attention = 4 * arch.width * arch.attention_width
    block = (attention + 2 * arch.width * arch.mlp_width) * (source + target)
    if source and target:  # queries and outputs of the target, keys and values of the source
        block += attention / 2 * (source + target)
    pairs = source**2 + target**2 + source * target
    head = arch.head_transform * arch.width**2 + arch.width * arch.vocab_size
    ones = 2 * arch.head_bias * arch.vocab_size  # the gradient of a bias is a product with ones
    stacks = arch.layers * (6 * block + 12 * arch.attention_width * pairs)
    return run.batch_size * (stacks + scored * (6 * head + ones))


@pytest.mark.parametrize("name", ["causal", "masked", "span_corruption"])
def test_every_structure_of_transformer(name):
    assert of(name) == by_hand(make(name))


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        (FeedForward(SIZE, context=5, width=16, hidden_width=24), 5 * 16 * 24 + (24 + 5 * 16) * SIZE),
        (Recurrent("gru", SIZE, width=16, hidden_width=24, layers=1), 3 * (16 + 24) * 24 + 24 * SIZE),
        (Recurrent("lstm", SIZE, width=16, layers=2, tied=True), 2 * 4 * (16 + 16) * 16 + 16 * SIZE),
    ],
    ids=["feed-forward", "gru", "lstm"],
)
def test_models_of_the_ladder_take_as_much_for_every_token(arch, parameters):
    run = dataclasses.replace(make("causal"), arch=arch)
    for length in (LENGTH, 3 * LENGTH):
        rows = np.zeros((ROWS, length + 1), np.int32)
        longer = dataclasses.replace(run, data=dataclasses.replace(run.data, length=length))
        found = per_step(longer, {"tokens": rows, "segments": rows})
        assert found == ROWS * length * (6 * parameters + 2 * SIZE)  # a bias, as above


def test_microbatches_and_devices_change_nothing():
    assert of("causal", microbatches=4) == of("causal", mesh=Mesh(data=2, fsdp=2)) == of("causal")


def test_rematerialisation_computes_the_block_again_but_for_its_last_product():
    arch, whole = make("causal").arch, of("causal")
    last = 2 * ROWS * LENGTH * arch.mlp_width * arch.width
    head = 6 * ROWS * LENGTH * arch.width * SIZE
    assert of("causal", compute=Compute(remat=True)) - whole == (whole - head) // 3 - last


def test_the_update_counts():
    def newton_schulz(n, m):
        return 5 * (2 * n * n * m + 2 * n**3 + 2 * n * n * m)

    arch = make("causal").arch
    matrices = 4 * newton_schulz(arch.width, arch.width) + 2 * newton_schulz(arch.width, arch.mlp_width)
    assert of("causal", optimizer=Optimizer("muon")) - of("causal") == matrices


def test_what_is_frozen_is_given_no_gradient():
    run = make("causal")
    run = dataclasses.replace(run, arch=dataclasses.replace(run.arch, tied=False))
    whole, head = of("causal"), 2 * ROWS * LENGTH * run.arch.width * SIZE
    top = per_step(dataclasses.replace(run, adapter=Adapter("freeze", frozen="^(?!head/)")))
    assert top == whole // 3 + head  # all of it forward, and the gradient of the head's kernel
    assert top < per_step(dataclasses.replace(run, adapter=Adapter("lora", rank=2))) < whole


def test_report_reads_what_a_trained_run_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    own, traced = step.gradient_sums, []
    monkeypatch.setattr(step, "gradient_sums", lambda *given: traced.append(given) or own(*given))
    run = small.run("causal", small.text(tmp_path), mesh=Mesh(data=1), steps=2, evaluate_every=0, save_every=0)
    assert loop.train(run, tmp_path / "run") == "done"
    assert len(traced) == 1  # the first update takes the trace that was counted

    facts = logs.read_run(tmp_path / "run")
    assert facts["flops_per_step"] == by_hand(from_json(facts["resolved"]))
    table = tables.results(cells.arrange(runs.load([tmp_path / "run"], "test"), "test"), [], {})
    shown = dict(zip([head.text for head in table.heads[-1]], [cell.text for cell in table.rows[0]], strict=True))
    assert shown["FLOPs (10⁶)"] == f"{2 * facts['flops_per_step'] / 1e6:.1f}"
