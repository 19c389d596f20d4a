"""What is frozen stays bitwise as it was, what is trained beside it is what LoRA, freezing and unfreezing promise."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.config import Adapter, Init, Loss, Mesh, Optimizer, check, from_json, to_json
from research.data.corpus import Data
from research.models import preset
from research.models.paths import flatten
from research.models.build import initial_parameters, parameter_shapes
from research.train import adapter, memory
from research.train.optimizer import create
from research.train.paths import layer
from research.train.step import examples, last_states, loss_sums, trainer
from research.types import UserError
from tests.train.test_step import DECODER, ENCODER, T5, WORDS, assert_same, make, mesh_of, record

LORA = Adapter("lora", rank=4)
HEAD = Adapter("freeze", frozen=r"^(?!head/)")
LOWEST = Adapter("freeze", lowest=1)


@functools.cache
def shapes(arch):
    return parameter_shapes(arch)


@functools.cache
def compiled(run):
    return trainer(run, WORDS, mesh_of(run))


def steps(run, count, given=None):
    """The states before, between and after `count` updates of `run`, on the host, and the metrics of each."""
    one = compiled(run)
    state = one.initialize(given)
    states, found = [jax.device_get(state)], []
    for _ in range(count):
        state, metrics = one.update(state, one.place(record(run)))
        states.append(jax.device_get(state))
        found.append(jax.device_get(metrics))
    return states, found


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def changed(before, after):
    """The paths of leaves that differ in any bit."""
    before, after = flatten(before), flatten(after)
    assert before.keys() == after.keys()
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [ENCODER, DECODER, T5], ids=lambda arch: arch.family)
@given(
    method=st.sampled_from(["full", "freeze", "lora"]),
    pattern=st.sampled_from(["kernel$", "^tokens/", "block_0/.*bias$", "/(query|value)/kernel$", "^(?!.*up)", "scale$"]),
    lowest=st.integers(0, 1),
)
@settings(max_examples=25, deadline=None)
def test_split_and_join_are_inverse_and_nothing_is_in_both(arch, method, pattern, lowest):
    chosen = Adapter(method, frozen=pattern, lowest=lowest, targets=r"(query|up)/kernel$", whole=pattern, rank=2)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(arch))
    try:
        trainable, frozen = adapter.split(chosen, arch, params, jax.random.key(0))
    except UserError as error:
        assert "matches no parameter" in str(error) or "freeze every parameter" in str(error)
        return
    ours, theirs = flatten(trainable), flatten(frozen)
    assert ours and not ours.keys() & theirs.keys()
    plain = {path for path in ours if "/lora_" not in path}
    assert plain | theirs.keys() == flatten(params).keys()
    assert flatten(adapter.join(trainable, frozen)).keys() == ours.keys() | theirs.keys()
    assert_equal(adapter.merge(chosen, trainable, frozen), params)  # updates begin as nothing
    if method == "lora":
        assert {path for path in ours if path.endswith("lora_a")} == {
            path.replace("kernel", "lora_a") for path in theirs if path.endswith(("query/kernel", "up/kernel"))
        }


def test_layers_are_counted_from_the_embeddings_to_the_head():
    bart = preset("bart-nano")
    found = {path: layer(bart, path) for path in flatten(shapes(dataclasses.replace(bart, vocab_size=10, pooler=True)))}
    assert bart.layers == bart.depth == 2
    for prefix, expected in {
        "tokens/": 0, "encoder/positions/": 0, "encoder/embedding_norm/": 0, "decoder/positions/": 0,
        "encoder/block_0/": 1, "encoder/block_1/": 2, "decoder/block_0/": 3, "decoder/block_1/": 4,
        "head/": 5, "pooler/": 5,
    }.items():  # fmt: skip
        assert {n for path, n in found.items() if path.startswith(prefix)} == {expected}
    assert layer(T5, "encoder/final_norm/scale") == 1 and layer(T5, "decoder/final_norm/scale") == 2
    assert layer(T5, "decoder/relative/embedding") == 0 and layer(T5, "classifier/kernel") == 3


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Adapter("freeze", frozen="^tokns/"), "adapter.frozen '^tokns/' matches no parameter: paths are such as"),
        (Adapter("freeze", frozen="."), "freeze every parameter: nothing is left to train"),
        (Adapter("freeze", frozen="^head/", lowest=1), "freeze every parameter"),
        (Adapter("freeze", lowest=3), "adapter.lowest is 3, but the model has 1 blocks"),
        (Adapter("lora", targets="nothing"), "adapter.targets 'nothing' matches no parameter"),
        (Adapter("lora", targets="query"), "matches encoder/block_0/self_attention/query/bias, which is no kernel"),
        (Adapter("lora", targets="tokens"), "matches tokens/embedding, which is no kernel"),
        (Adapter("lora", whole="^clasifier/"), "adapter.whole '^clasifier/' matches no parameter"),
    ],
)
def test_what_matches_nothing_or_everything_is_refused_before_any_text_is_read(chosen, message):
    run = make("masked", adapter=chosen)
    check(run, resolved=True)
    with pytest.raises(UserError) as caught:
        memory.estimate(run, {"data": 1, "fsdp": 1, "tensor": 1})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Adapter("freeze"), "adapter.method is freeze, but adapter.frozen is empty and adapter.lowest is 0"),
        (Adapter("lora", rank=0), "adapter.rank is 0: it must be above 0"),
        (Adapter("lora", dropout=1.0), "adapter.dropout is 1.0: it must be at least 0 and below 1"),
        (Adapter("lora", targets="("), "adapter.targets is not a regular expression"),
        (Adapter(unfreeze_every=-1), "adapter.unfreeze_every is -1: it must not be negative"),
        (Optimizer(layer_decay=0.0), "optimizer.layer_decay is 0.0: it must be above 0 and at most 1"),
        (Optimizer(no_decay="["), "optimizer.no_decay is not a regular expression"),
    ],
)
def test_fields_that_cannot_work_are_refused(chosen, message):
    run = make("masked", **{"adapter" if isinstance(chosen, Adapter) else "optimizer": chosen})
    with pytest.raises(UserError) as caught:
        check(run)
    assert str(caught.value).startswith(message)


def test_adapters_are_json_and_back():
    run = make("masked", adapter=Adapter("lora", rank=3, unfreeze_every=7), optimizer=Optimizer(layer_decay=0.5))
    assert from_json(json.loads(json.dumps(to_json(run)))) == run
    old = to_json(run)
    del old["adapter"]
    assert from_json(old).adapter == Adapter()  # of a run that was recorded before there were any


# --- steps ------------------------------------------------------------------------------------------------------------


SLOW = [pytest.param(chosen, marks=pytest.mark.slow) for chosen in (HEAD, LOWEST)]


@pytest.mark.parametrize("chosen", [*SLOW, LORA], ids=["head", "lowest", "lora"])
def test_what_is_frozen_stays_bitwise_and_has_no_optimizer_state(chosen):
    run = make("masked", dropout=0.1, adapter=chosen, ema=0.9)
    [first, *_, last], metrics = steps(run, 2)
    assert changed(first.frozen, last.frozen) == set()
    assert changed(first.trainable, last.trainable) == flatten(first.trainable).keys()
    size = sum(leaf.size for leaf in jax.tree.leaves(first.trainable))
    assert sum(leaf.size for leaf in jax.tree.leaves(first.opt_state) if leaf.ndim) == 2 * size  # AdamW's moments
    assert jax.tree.structure(first.averages) == jax.tree.structure(first.trainable)
    full, [found, *_] = steps(make("masked", dropout=0.1, ema=0.9), 1)
    if chosen is LORA:  # updates begin as nothing; a fresh head is fresh in the same way
        assert metrics[0]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    plain = jax.device_get(compiled(run).merge(first.trainable, first.frozen))
    assert_equal(plain, full[0].trainable)
    assert metrics[0]["gradient_norm"] < found["gradient_norm"]


def test_gradients_of_a_frozen_run_are_those_of_the_full_one():
    run, full = (make("masked", dropout=0.1, adapter=chosen, ema=0.9) for chosen in (HEAD, Adapter()))
    after, whole = steps(run, 1)[0][1], steps(full, 1)[0][1]
    moments = lambda state: flatten(next(s.mu for s in state.opt_state if hasattr(s, "mu")))  # noqa: E731
    ours, theirs = moments(after), moments(whole)  # after one step: (1 - b1) x the clipped gradient
    path = "head/transform/kernel"
    ratio = ours[path] / np.where(theirs[path] == 0, 1, theirs[path])
    np.testing.assert_allclose(ratio[np.abs(theirs[path]) > 1e-5], ratio.max(), rtol=1e-3)  # one factor: clipped apart


@pytest.mark.parametrize(
    ("name", "chosen", "fields"),
    [
        pytest.param("causal", LORA, {"mesh": Mesh(data=2), "microbatches": 2}, marks=pytest.mark.slow),
        pytest.param("masked", HEAD, {"microbatches": 4}, marks=pytest.mark.slow),
        pytest.param("masked", LORA, {"mesh": Mesh(2, 2, 2)}, marks=pytest.mark.slow),
        pytest.param("span_corruption", LORA, {"mesh": Mesh(1, 2, 2)}, marks=pytest.mark.slow),
    ],
)
def test_devices_and_microbatches_change_nothing(name, chosen, fields):
    warm = {"rank": 2, "targets": r"kernel$", "whole": "norm"} if chosen is LORA else {}
    chosen = dataclasses.replace(chosen, **warm)
    if name == "masked" and chosen.method == "lora":
        chosen = dataclasses.replace(chosen, targets=r"block_0/.*kernel$")
    assert_same(make(name, adapter=chosen), make(name, adapter=chosen, **fields))


def test_low_rank_updates_lie_as_their_kernels_do():
    run = make("causal", adapter=Adapter("lora", rank=4, targets=r"(up|down)/kernel$"), mesh=Mesh(1, 2, 2))
    block = compiled(run).shapes.trainable["decoder"]["block_0"]["mlp"]
    spec = lambda *axes: jax.sharding.PartitionSpec(*axes)  # noqa: E731
    assert block["up"]["lora_a"].sharding.spec == spec("fsdp", None)
    assert block["up"]["lora_b"].sharding.spec == spec(None, "tensor")
    assert block["down"]["lora_a"].sharding.spec == spec("tensor", None)
    assert block["down"]["lora_b"].sharding.spec == spec(None, "fsdp")


@pytest.mark.slow
def test_dropout_of_updates_needs_no_other_dropout():
    plain, dropped = (make("causal", adapter=dataclasses.replace(LORA, dropout=rate)) for rate in (0.0, 0.5))
    first, second = steps(plain, 2)[1], steps(dropped, 2)[1]
    assert first[0]["loss"] == second[0]["loss"] and first[1]["loss"] != second[1]["loss"]


def test_merging_changes_the_kernels_that_are_targets_and_copies_nothing_else():
    run = make("masked", dropout=0.1, adapter=LORA, ema=0.9)
    one, [first, _, last] = compiled(run), steps(run, 2)[0]
    merged = [jax.device_get(one.merge(state.trainable, state.frozen)) for state in (first, last)]
    assert flatten(merged[0]).keys() == flatten(one.parameters).keys()
    assert changed(*merged) == {f"encoder/block_0/self_attention/{name}/kernel" for name in ("query", "value")}
    query = lambda tree: tree["encoder"]["block_0"]["self_attention"]["query"]  # noqa: E731
    expected = query(last.frozen)["kernel"] + 4 * query(last.trainable)["lora_a"] @ query(last.trainable)["lora_b"]
    np.testing.assert_allclose(query(merged[1])["kernel"], expected, atol=1e-6)
    state = one.initialize()
    tables = [tree["tokens"]["embedding"] for tree in (state.frozen, one.merge(state.trainable, state.frozen))]
    assert tables[0].unsafe_buffer_pointer() == tables[1].unsafe_buffer_pointer()


@pytest.mark.slow
def test_merged_parameters_are_the_model_that_was_trained():
    run = make("causal", adapter=dataclasses.replace(LORA, targets="block_0/.*kernel$"))
    states, metrics = steps(run, 3)
    one, rows = compiled(run), record(run)
    params = one.merge(states[2].trainable, states[2].frozen)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(rows["tokens"])))
    example = examples(run, WORDS, keys, rows)
    sums = loss_sums(run, params, last_states(run, one.model, params, example)[0], example, Loss(), one.mesh)
    assert float(sums.nll / sums.weight) == pytest.approx(metrics[2]["loss"], rel=1e-5)


def test_a_step_that_trains_less_computes_less():
    """Kernels that are frozen get no gradient: about a third of the work is not there."""

    def cost(chosen):
        run = make("masked", adapter=chosen, batch_size=32, optimizer=Optimizer(name="lion", clip=0.0))
        arch = dataclasses.replace(run.arch, width=64, mlp_width=256)
        one = compiled(dataclasses.replace(run, arch=arch, data=Data(length=64)))
        row = jax.ShapeDtypeStruct((32, 64), np.int32)
        return one.update.lower(one.shapes, {"tokens": row, "segments": row}).cost_analysis()["flops"]  # not compiled

    full, low_rank, head = cost(Adapter()), cost(Adapter("lora", rank=2)), cost(HEAD)
    assert low_rank < 0.8 * full and head < 0.5 * full


# --- rates and steps of each layer ------------------------------------------------------------------------------------


def test_rates_fall_by_layer_and_decay_with_them():
    up = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    params = {
        "tokens": {"embedding": jnp.full((2, 2), 2.0)},
        "encoder": {f"block_{i}": {"mlp": {"up": up}} for i in (0, 1)},
        "head": {"bias": jnp.full(2, 2.0)},
    }
    arch = dataclasses.replace(ENCODER, layers=2)
    rule = create(Optimizer("lion", weight_decay=0.1, clip=0.0, layer_decay=0.5), optax.constant_schedule(0.01), arch)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = rule.update(ones, rule.init(params), params)
    found = {path: float(leaf.ravel()[0]) for path, leaf in flatten(updates).items()}
    decayed = 1 + 0.1 * 2  # Lion's sign, and the decay of what is 2
    expected = {
        "head/bias": 0.01,
        "encoder/block_1/mlp/up/kernel": 0.005 * decayed,
        "encoder/block_1/mlp/up/bias": 0.005,
        "encoder/block_0/mlp/up/kernel": 0.0025 * decayed,
        "encoder/block_0/mlp/up/bias": 0.0025,
        "tokens/embedding": 0.00125 * decayed,
    }
    assert found == pytest.approx({path: -rate for path, rate in expected.items()}, rel=1e-5)


OPTIMIZERS = ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lion", "adafactor", "muon"))]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layers_open_from_the_top_and_are_bitwise_closed_until_then(name):
    gradual = Adapter(unfreeze_every=2)
    run = make("masked", adapter=gradual, optimizer=Optimizer(name, weight_decay=0.1, clip=0.1), ema=0.9)
    states, metrics = steps(run, 5)
    layers = {path: layer(run.arch, path) for path in flatten(states[0].trainable)}
    assert set(layers.values()) == {0, 1, 2}
    for step in range(5):
        opened = {path for path, found in layers.items() if 2 * (2 - found) <= step}
        before, after = states[step], states[step + 1]
        assert changed(before.trainable, after.trainable) == opened
        assert changed(before.averages, after.averages) == opened
    alone = steps(make("masked", adapter=HEAD, ema=0.9), 1)[1]
    assert metrics[0]["gradient_norm"] == pytest.approx(alone[0]["gradient_norm"], rel=1e-5)  # of what is open
    assert metrics[4]["gradient_norm"] > 1.5 * metrics[0]["gradient_norm"]


def test_a_layer_that_opens_takes_a_first_step_of_the_usual_size():
    """From moments of zero it would be (1 - b1) / sqrt(1 - b2) = 3.2 times the learning rate where gradients agree."""
    optimizer = Optimizer(weight_decay=0.0, clip=0.0, learning_rate=1e-4)
    run = make("masked", adapter=Adapter(unfreeze_every=20), optimizer=optimizer)
    states, _ = steps(run, 21)
    before, after = (flatten(states[i].trainable)["encoder/block_0/mlp/up/kernel"] for i in (20, 21))
    sizes = np.abs(after - before) / 1e-4
    assert sizes.max() < 2 and 0.05 < np.median(sizes) < 1


def test_moments_of_closed_layers_are_clipped_as_if_all_were_trained():
    norm, every = jnp.float32(2.0), jnp.float32(8.0)
    gradients = {"head": {"bias": jnp.ones(2)}, "tokens": {"embedding": jnp.ones(2)}}
    opened = {"head/bias": jnp.bool_(True), "tokens/embedding": jnp.bool_(False)}
    found = flatten(adapter.clip(1.0, opened, gradients, norm, every))
    assert float(found["head/bias"][0]) == 0.5 and float(found["tokens/embedding"][0]) == 0.125
    assert_equal(adapter.clip(10.0, opened, gradients, norm, every), gradients)
    assert_equal(adapter.clip(0.0, opened, gradients, norm, every), gradients)


@pytest.mark.slow
def test_gradual_unfreezing_of_what_is_all_open_is_ordinary_training():
    """Clipping outside the rule, and every mask, leave the same numbers: all of it is open when there is one layer."""
    fields = {"optimizer": Optimizer(clip=0.01)}
    plain = steps(make("masked", adapter=HEAD, **fields), 2)[0][-1]
    masked = steps(make("masked", adapter=dataclasses.replace(HEAD, unfreeze_every=9), **fields), 2)[0][-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), plain.trainable, masked.trainable)


def test_without_a_head_of_its_own_the_last_block_is_what_is_trained_first():
    opens = adapter.opens(Adapter(unfreeze_every=5), DECODER, flatten(shapes(DECODER)))
    assert opens["decoder/block_0/mlp/up/kernel"] == opens["decoder/final_norm/scale"] == 0
    assert opens["tokens/embedding"] == 5
    beside = adapter.opens(Adapter(unfreeze_every=5), T5, ["encoder/block_0/x/lora_a", "decoder/block_0/x/lora_a"])
    assert list(beside.values()) == [5, 0]


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion"])
@pytest.mark.parametrize("chosen", [Adapter(), HEAD, LOWEST, LORA], ids=["full", "head", "lowest", "lora"])
def test_memory_counts_what_is_trained(name, chosen):
    run = make("masked", adapter=chosen, optimizer=Optimizer(name), ema=0.5, steps=9)
    parts = memory.estimate(run, {"data": 1, "fsdp": 1, "tensor": 1}).parts
    rule = create(run.optimizer, lambda step: 1.0, run.arch)

    def start():
        params = initial_parameters(run.arch, jax.random.key(0))
        trainable, frozen = adapter.split(chosen, run.arch, params, jax.random.key(0))
        return (trainable, frozen), rule.init(trainable), trainable

    sizes = [4 * sum(leaf.size for leaf in jax.tree.leaves(part)) for part in jax.eval_shape(start)]
    assert [parts["parameters"], parts["averages"]] == [sizes[0], sizes[2]]
    assert parts["optimizer"] == pytest.approx(sizes[1], rel=0.02, abs=800)


def test_blocks_below_what_is_trained_keep_nothing_for_a_backward_pass():
    def needed(chosen, layers=8):
        run = dataclasses.replace(make("masked", adapter=chosen), arch=dataclasses.replace(ENCODER, layers=layers))
        return memory.estimate(run, {"data": 1, "fsdp": 1, "tensor": 1})

    some = [HEAD, Adapter("freeze", lowest=6), Adapter("freeze", lowest=2), LORA]
    kept = [needed(chosen).parts["activations"] for chosen in some]
    assert sorted(set(kept)) == kept and kept[-1] == needed(Adapter()).parts["activations"]
    assert needed(LORA, layers=10**9).total > 10**12  # at once


@pytest.mark.parametrize(("path", "warned"), [("", True), ("some/model", False)])
def test_what_is_frozen_and_random_is_told(path, warned):
    run = make("masked", adapter=LORA)
    made = compiled(run)
    said = adapter.summary(dataclasses.replace(run, init=Init(path)), made.parameters, made.shapes)
    assert ("what is frozen stays as random as it is" in said) == warned and said.count("\n") == warned


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("chosen", [LORA, pytest.param(HEAD, marks=pytest.mark.slow)], ids=["lora", "head"])
def test_what_is_said_of_the_optimizers_state_is_what_it_takes(name, chosen):
    run = make("masked", adapter=chosen, optimizer=Optimizer(name))
    full = dataclasses.replace(run, adapter=Adapter())
    states = [compiled(each).initialize().opt_state for each in (run, full)]
    taken = [sum(leaf.nbytes for leaf in jax.tree.leaves(each)) / 1e6 for each in states]
    said = adapter.summary(run, compiled(run).parameters, compiled(run).shapes)
    found = re.search(r"optimizer state ([\d,.]+) MB, ([\d,.]+) MB were all trained", said)
    assert [float(each.replace(",", "")) for each in found.groups()] == [round(each, 2) for each in taken]
    assert 0 < taken[0] < taken[1]
