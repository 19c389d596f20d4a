"""Every family of models, trained on every objective that fits it, gives on every mesh what one device gives."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from research.config import Adapter, Compute, Loss, Mesh, Run, Schedule, check
from research.data.corpus import Data
from research.models import preset
from research.models.arch import Arch, with_head
from research.models.ladder import FeedForward, Recurrent
from research.objectives import OBJECTIVES
from research.train import sharding
from research.train.step import gradient_sums, trainer
from research.types import State, UserError
from tests.train.test_step import SIZE, WORDS

ROWS, LENGTH, TARGET, LABELS, PER_ROW = 8, 24, 16, 4, 4
SHAPE = {"vocab_size": SIZE, "width": 32, "heads": 4, "mlp_width": 64, "layers": 1, "max_length": 32}
STILL = {"head_width": 0, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
FAMILIES = {
    name: dataclasses.replace(preset(f"{name}-nano"), **SHAPE, **STILL)
    for name in ("bert", "roberta", "gpt2", "t5", "t5-v1.1", "bart")
} | {
    "elman": Recurrent("elman", SIZE, width=16, layers=1),
    "lstm": Recurrent("lstm", SIZE, width=16, layers=2),
    "gru": Recurrent("gru", SIZE, width=16, hidden_width=24, layers=2, tied=True),
    "feed-forward": FeedForward(SIZE, context=3, width=16, hidden_width=24),
}
FIELDS = {
    "classification": {"per_row": PER_ROW, "labels": tuple("abcd")},
    "tagging": {"overlap": 8, "labels": tuple("abcd")},
    "seq2seq": {"target_length": TARGET},
    "completion": {"target_length": TARGET},
}
MESHES = {"data 4": Mesh(4), "fsdp 4": Mesh(1, 4), "tensor 2": Mesh(1, 1, 2), "2 x 2 x 2": Mesh(2, 2, 2)}


def make(family, name, **fields):
    """Return a run of one step; fields of its model and its objective are under their names in `fields`."""
    arch = dataclasses.replace(FAMILIES[family], **fields.pop("arch", {}))
    objective = OBJECTIVES[name](**{**FIELDS.get(name, {}), **fields.pop("objective", {})})
    if isinstance(arch, Arch):
        arch = with_head(arch, objective.head, LABELS if objective.head != "vocabulary" else 0)
    data = Data(length=LENGTH, order="shuffled" if isinstance(arch, Arch) else "stream")
    return Run("test", arch, objective, data, schedule=Schedule("constant", 0), steps=1, batch_size=ROWS, **fields)


def valid(family, name):
    """Return whether the library takes this model for this objective."""
    try:
        check(make(family, name))
    except UserError as error:
        assert "objective" in str(error)
        return False
    return True


PAIRS = [(family, name) for family in FAMILIES for name in OBJECTIVES if valid(family, name)]


def record(run):
    """Rows of what the objective reads, two documents each, the last rows with padding at their end."""
    rng = np.random.default_rng(0)

    def row(length, first):
        tokens = rng.integers(6, SIZE - 20, (ROWS, length)).astype(np.int32)
        segments = np.where(np.arange(length) < first, 1, 2).astype(np.int32) * np.ones((ROWS, 1), np.int32)
        segments[-2:, -5:] = 0
        return tokens, segments

    name = type(run.objective).__name__.lower()
    tokens, segments = row(LENGTH + run.objective.lookahead, 10)
    found = {"tokens": tokens, "segments": segments}
    scored = (segments > 0).astype(np.float32)
    if name == "classification":
        kept = np.arange(PER_ROW) < 2
        shape = (ROWS, PER_ROW)
        labels = rng.integers(0, LABELS, shape).astype(np.int32)
        if run.objective.problem != "single_label":
            labels = rng.integers(0, 2, (*shape, LABELS)).astype(np.float32)
        select = np.where(kept, [0, 10, 0, 0], 0).astype(np.int32) * np.ones((ROWS, 1), np.int32)
        found |= {"select": select, "labels": labels, "weights": kept * np.ones(shape, np.float32)}
    elif name == "tagging":
        found |= {"labels": rng.integers(0, LABELS, tokens.shape).astype(np.int32), "weights": scored}
    elif name == "seq2seq":
        target, target_segments = row(TARGET, 7)
        found = {"source": tokens, "source_segments": segments, "tokens": target, "segments": target_segments}
        found |= {"targets": row(TARGET, 7)[0], "weights": (target_segments > 0).astype(np.float32)}
    elif name == "completion":
        found |= {"answers": (np.arange(tokens.shape[1]) % 10 > 4).astype(np.int32) * np.ones((ROWS, 1), np.int32)}
    return found


def drawn(shapes):
    """Return leaves of these shapes and shardings, as far from fresh ones as training would take them.

    Compiling a run's own start would take as long as the step.
    """
    rng = np.random.default_rng(1)

    def leaf(path, like):
        words = like.dtype == np.int32
        values = rng.integers(6, SIZE - 20, like.shape) if words else rng.normal(0, 0.2, like.shape)
        values = values + (getattr(path[-1], "key", "") == "scale") if path else values
        return jax.device_put(np.asarray(values, like.dtype), like.sharding)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def computed(run):
    """Return the mean loss of one batch, its weight, the gradient and the carry, computed on the run's mesh."""
    mesh = sharding.create_mesh(run.mesh)
    compiled = trainer(run, WORDS, mesh)
    given = compiled.shapes
    state = State(
        np.int32(0), drawn(given.trainable), drawn(given.frozen), opt_state=(), averages=(), carry=drawn(given.carry)
    )

    @jax.jit
    def step(state, rows):
        sums, gradient, carry = gradient_sums(run, compiled.model, WORDS, mesh, state, rows)
        return sums.total / sums.weight, sums.weight, jax.tree.map(lambda g: g / sums.weight, gradient), carry

    return jax.device_get(step(state, compiled.place(record(run))))


def assert_equal_to_one_device(run):
    """Losses agree within 1e-6 of themselves, gradients within 1e-5 of the norm of all of them."""
    assert run.mesh != Mesh(1)
    loss, weight, gradient, carry = computed(dataclasses.replace(run, mesh=Mesh(1)))
    other_loss, other_weight, other_gradient, other_carry = computed(run)
    assert weight == other_weight > 0
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - b, gradient, other_gradient))
    assert 0 < optax.tree.norm(gradient) and difference <= 1e-5 * optax.tree.norm(gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, other_carry)


# `make test` sees every pair on one mesh; the product of all is slow.
FIRST = {
    ("bert", "masked"): "tensor 2",
    ("bert", "classification"): "fsdp 4",
    ("bert", "tagging"): "data 4",
    ("roberta", "masked"): "2 x 2 x 2",
    ("roberta", "classification"): "data 4",
    ("roberta", "tagging"): "tensor 2",
    ("gpt2", "causal"): "2 x 2 x 2",
    ("gpt2", "prefix"): "tensor 2",
    ("gpt2", "completion"): "fsdp 4",
    ("gpt2", "classification"): "tensor 2",
    ("gpt2", "tagging"): "fsdp 4",
    ("t5", "span_corruption"): "2 x 2 x 2",
    ("t5", "denoising"): "data 4",
    ("t5", "mixture"): "tensor 2",
    ("t5", "seq2seq"): "fsdp 4",
    ("t5-v1.1", "span_corruption"): "tensor 2",
    ("t5-v1.1", "denoising"): "fsdp 4",
    ("t5-v1.1", "mixture"): "data 4",
    ("t5-v1.1", "seq2seq"): "2 x 2 x 2",
    ("bart", "span_corruption"): "fsdp 4",
    ("bart", "denoising"): "2 x 2 x 2",
    ("bart", "mixture"): "data 4",
    ("bart", "seq2seq"): "tensor 2",
    ("elman", "causal"): "data 4",
    ("lstm", "causal"): "fsdp 4",
    ("gru", "causal"): "2 x 2 x 2",
    ("feed-forward", "causal"): "tensor 2",
}
CASES = [
    pytest.param(*pair, mesh, marks=[pytest.mark.slow] * (FIRST.get(pair) != mesh), id=" ".join((*pair, mesh)))
    for pair in PAIRS
    for mesh in MESHES
]


@pytest.mark.parametrize(("family", "name", "mesh"), CASES)
def test_every_mesh_equals_one_device(family, name, mesh):
    assert_equal_to_one_device(make(family, name, mesh=MESHES[mesh]))


def test_every_family_is_trained_on_all_that_its_structure_can_do():
    assert set(FIRST) == set(PAIRS)
    found = {family: {name for one, name in PAIRS if one == family} for family in FAMILIES}
    both = {"span_corruption", "denoising", "mixture", "seq2seq"}
    assert found["bert"] == found["roberta"] == {"masked", "classification", "tagging"}
    assert found["gpt2"] == {"causal", "prefix", "completion", "classification", "tagging"}
    assert found["t5"] == found["t5-v1.1"] == found["bart"] == both
    assert all(found[family] == {"causal"} for family in ("elman", "lstm", "gru", "feed-forward"))


# Updates of alpha / rank = 1: larger ones of these weights saturate T5's unscaled attention, which then multiplies rounding
# tenfold on one device too, where microbatches alone change the order of sums.
LORA = Adapter("lora", rank=4, alpha=4.0, targets=r"(query|key|value|out|up|down|gate)/kernel$", whole=r"^classifier/")
ODD = {"heads": 3, "width": 33, "mlp_width": 63, "vocab_size": SIZE + 1}  # all of it whole on every device
OTHERS = {
    "lora": ("gpt2", "causal", {"adapter": dataclasses.replace(LORA, whole="")}),
    "lora and a head": ("bert", "classification", {"adapter": LORA}),
    "lora of both stacks": ("t5-v1.1", "span_corruption", {"adapter": dataclasses.replace(LORA, whole="")}),
    "frozen": ("bert", "tagging", {"adapter": Adapter("freeze", lowest=1)}),
    "several labels": ("roberta", "classification", {"objective": {"problem": "multi_label"}}),
    "microbatches": ("bart", "denoising", {"microbatches": 2}),
    "prompts read whole": ("gpt2", "completion", {"objective": {"bidirectional": True}}),
    "regularisers": ("t5", "seq2seq", {"loss": Loss(label_smoothing=0.1, z_loss=1e-3)}),
    "computed again": ("bart", "seq2seq", {"compute": Compute(remat=True)}),
    "what does not divide": ("gpt2", "causal", {"arch": ODD}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", OTHERS)
def test_what_else_a_step_can_be_equals_one_device(name, mesh):
    family, objective, fields = OTHERS[name]
    assert_equal_to_one_device(make(family, objective, mesh=MESHES[mesh], **fields))
