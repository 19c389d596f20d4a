"""The estimate is arithmetic, near what XLA reserves, and refuses in one line what does not fit."""

import collections
import dataclasses
import itertools
import math
import re
import time

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from research.config import Compute, Mesh, Optimizer, Run
from research.data.corpus import Data
from research.models import bart, bert, gpt2, roberta, t5
from research.models.arch import Arch, with_head
from research.models.build import parameter_shapes
from research.objectives.causal import Causal
from research.objectives.classification import Classification
from research.objectives.denoising import Denoising
from research.objectives.masked import Masked
from research.objectives.span_corruption import SpanCorruption
from research.objectives.tagging import Tagging
from research.train import memory, optimizer, paths, shapes, sharding
from research.train.memory import GIB, Estimate, available, estimate, refuse_if_too_large
from research.train.step import trainer
from research.types import UserError, Vocabulary

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ONE = {"data": 1, "fsdp": 1, "tensor": 1}
SMALL = {"vocab_size": 2048, "width": 64, "layers": 2, "heads": 4, "head_width": 16, "mlp_width": 256, "max_length": 64}
OBJECTIVES = {"bert": Masked(), "gpt2": Causal(), "t5": SpanCorruption(), "bart": Denoising()}
PRESETS = {**bert.PRESETS, **roberta.PRESETS, **gpt2.PRESETS, **t5.PRESETS, **bart.PRESETS}
FAMILIES = {
    "bert": PRESETS["bert-tiny"], "gpt2": PRESETS["gpt2"], "t5": PRESETS["t5-small"], "bart": PRESETS["bart-base"]
}  # fmt: skip


def make(family="gpt2", arch=None, **fields) -> Run:
    shape = {**SMALL, "decoder_layers": 2} if FAMILIES[family].structure == "encoder-decoder" else SMALL
    arch = dataclasses.replace(FAMILIES[family], **{**shape, **(arch or {})})
    fields = {"data": Data(length=64), "batch_size": 8, "steps": 10, **fields}
    return Run("x", arch, OBJECTIVES[family], **fields)


def shorter(arch: Arch) -> Arch:
    layers = {"layers": 2, "decoder_layers": 2 if arch.decoder_layers else 0, "vocab_size": arch.vocab_size or 100}
    return dataclasses.replace(arch, **layers)


@pytest.mark.parametrize("name", [name for name, arch in PRESETS.items() if arch.width in (128, 512, 768)])
def test_every_parameter_is_counted(name):
    arch = shorter(PRESETS[name])
    actual = collections.Counter()
    paths.map_named(
        lambda path, leaf: actual.update([(re.sub(r"block_\d+", "block_*", path), leaf.shape)]), parameter_shapes(arch)
    )
    assert actual == {(shape.path, shape.shape): shape.times for shape in shapes.parameters(arch)}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_spread_as_the_table_says(family):
    mesh = AbstractMesh((2, 2, 4), ("data", "fsdp", "tensor"))
    run = make(family, {"vocab_size": 2046})  # does not divide by 4
    shapes = parameter_shapes(run.arch)
    placed = sharding.shardings(shapes, mesh)
    local = jax.tree.map(lambda leaf, place: math.prod(place.shard_shape(leaf.shape)), shapes, placed)
    assert estimate(run, dict(mesh.shape)).parts["parameters"] == 4 * sum(jax.tree.leaves(local))


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon", "sgd"])
def test_optimizer_state_is_counted(name):
    run = make(arch={"width": 128, "head_width": 32}, optimizer=Optimizer(name=name))
    rule = optimizer.create(run.optimizer, lambda step: 1.0)
    actual = sum(4 * leaf.size for leaf in jax.tree.leaves(jax.eval_shape(rule.init, parameter_shapes(run.arch))))
    assert estimate(run, ONE).parts["optimizer"] == pytest.approx(actual, rel=0.01, abs=4)


MESHES = {"one": (1, 1, 1), "data 4": (4, 1, 1), "fsdp 4": (1, 4, 1), "tensor 2": (1, 1, 2), "2 x 2 x 2": (2, 2, 2)}
SHAPES = {  # of three blocks: the largest part of a step is a little of everything, scores, or logits
    "round": {"width": 128, "head_width": 32, "mlp_width": 512, "vocab_size": 8192, "length": 128},
    "long": {"vocab_size": 512, "length": 256},
    "wide": {"vocab_size": 32_768, "length": 64},
}
PRODUCT = [(*cell, remat) for cell in itertools.product(FAMILIES, MESHES, SHAPES) for remat in (False, True)]


def reserved(run: Run) -> int:
    """Return what XLA:CPU reserves on each device for a step of `run`."""
    size = run.arch.vocab_size
    ids = np.arange(size, dtype=np.int32)
    words = Vocabulary(size, 0, 1, 2, ids[-100:], ids[3:6], ids < 6, ids % 3 == 0, ids == 9)
    mesh = sharding.create_mesh(run.mesh)
    step = trainer(run, words, mesh)
    shape = (run.batch_size, run.data.length + run.objective.lookahead)
    row = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding.batch_sharding(mesh))
    lowered = step.update.lower(step.shapes, {"tokens": row, "segments": row})
    # Code quality changes no buffer, and takes most of the time of compiling.
    return memory.reserved(lowered.compile(compiler_options=QUICK))


def sized(family, mesh, shape, remat, **fields) -> Run:
    shape = dict(SHAPES[shape])
    length = shape.pop("length")
    layers = {"layers": 3, "decoder_layers": 3 if FAMILIES[family].structure == "encoder-decoder" else 0}
    fields = {"mesh": Mesh(*MESHES[mesh]), "data": Data(length=length), "compute": Compute(remat=remat), **fields}
    return make(family, {**layers, "max_length": length, **shape}, **fields)


@pytest.mark.parametrize(
    ("family", "mesh", "shape", "remat"),
    [
        ("gpt2", "one", "round", False),
        ("gpt2", "2 x 2 x 2", "round", True),
        ("t5", "2 x 2 x 2", "wide", True),
        *(pytest.param(*cell, marks=pytest.mark.slow) for cell in PRODUCT),
    ],
)
def test_near_what_xla_reserves(family, mesh, shape, remat):
    run = sized(family, mesh, shape, remat)
    sizes = dict(sharding.create_mesh(run.mesh).shape)
    assert estimate(run, sizes, "cpu").total == pytest.approx(reserved(run), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": Optimizer("muon")},
        {"optimizer": Optimizer("adafactor")},
        {"microbatches": 2},
        {"ema": 0.9},
        {"compute": Compute(dtype="bfloat16")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_near_what_xla_reserves_of_other_runs(fields):
    run = dataclasses.replace(sized("gpt2", "one", "round", False), **fields)
    assert estimate(run, ONE, "cpu").total == pytest.approx(reserved(run), rel=0.15)


def test_what_saves_memory_is_seen_to_save_it():
    def total(platform="gpu", mesh=ONE, **fields):
        return estimate(make("bert", {"layers": 12}, **{"batch_size": 64, **fields}), mesh, platform).total

    plain = total()
    assert total(microbatches=8) < plain / 3
    assert total(mesh={**ONE, "data": 4}) < plain / 2
    assert total(mesh={**ONE, "tensor": 4}) < plain / 1.5
    assert total(compute=Compute(remat=True)) < plain / 3
    assert total(compute=Compute(dtype="bfloat16")) < plain / 1.2
    assert total("cpu", compute=Compute(remat=True)) < plain / 3
    assert total(ema=0.9) - plain == estimate(make("bert", {"layers": 12}), ONE).parts["parameters"]
    assert total("cpu", compute=Compute(dtype="bfloat16")) == total("cpu") > plain  # denominators


def test_what_a_device_has_beside_its_own_part():
    run = make("gpt2", {"dropout": 0.0, "attention_dropout": 0.0}, compute=Compute("bfloat16"), batch_size=64)
    one, parts = (estimate(run, mesh, "gpu").parts for mesh in (ONE, {**ONE, "fsdp": 4}))
    assert parts["gathered"] == pytest.approx(one["parameters"], rel=0.02)  # vectors lie whole anyway
    assert parts["parameters"] + parts["optimizer"] < (one["parameters"] + one["optimizer"]) / 3.5
    scores = dataclasses.replace(run, compute=Compute("bfloat16", attention="xla"))
    assert estimate(scores, ONE, "gpu").parts["activations"] - one["activations"] >= 2 * 4 * 64 * 4 * 64 * 64 * 2
    assert one["gathered"] == 0


@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_who_tells_labels_apart_keeps_what_a_pretrained_model_of_either_kind_does(head):
    objective = {"sequence": Classification(), "tokens": Tagging()}[head]
    for family in ("gpt2", "bert"):
        whole = make(family)
        labelled = dataclasses.replace(whole, arch=with_head(whole.arch, head, 3), objective=objective)
        kept, text = (estimate(run, ONE, "gpu").parts for run in (labelled, whole))
        assert 0.9 < kept["activations"] / text["activations"] < 1.15  # at most a block's gradient beside them
        assert kept["logits"] < text["logits"] / 100 and kept["gradients"] <= text["gradients"]


def test_absurd_sizes_are_refused_at_once_in_one_line():
    started = time.perf_counter()
    for arch in (
        {"vocab_size": 10**12},
        {"width": 10**6, "heads": 10, "mlp_width": 10**7},
        {"layers": 10**9},
        {"vocab_size": 10**12, "width": 10**6, "layers": 10**9, "heads": 10**6, "head_width": 1, "mlp_width": 10**9},
    ):
        for family in FAMILIES:
            with pytest.raises(UserError, match="the run needs about .* GiB.* are free") as caught:
                refuse_if_too_large(estimate(make(family, arch), ONE), available())
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.perf_counter() - started < 5  # for twelve, on a busy machine


def test_the_refusal_names_the_parts_and_what_to_change():
    needed = Estimate({"parameters": 2 * GIB, "averages": 0, "activations": 6 * GIB, "batch": GIB // 2}, 1)
    refuse_if_too_large(needed, 9 * GIB)
    with pytest.raises(UserError) as caught:
        refuse_if_too_large(needed, 8 * GIB)
    assert str(caught.value) == (
        "the run needs about 8.50 GiB, but 8.00 GiB are free (parameters 2.00, activations 6.00, batch 0.50); the "
        "largest part is activations: raise microbatches, or lower batch_size, data.length or arch.layers"
    )
    assert ": set compute.remat True, raise microbatches" in memory.complaint(needed._replace(remat=False), 8 * GIB)
    with pytest.raises(UserError, match="on each of 2 devices that share it"):
        refuse_if_too_large(needed._replace(sharing=2), 9 * GIB)


def test_emulated_devices_share_one_memory():
    assert estimate(make(), {"data": 2, "fsdp": 2, "tensor": 1}, "cpu").sharing == 4
    assert estimate(make(), {"data": 2, "fsdp": 2, "tensor": 1}, "gpu").sharing == 1


def test_what_is_free_respects_containers(tmp_path):
    assert 2**20 < available() < 2**50
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "a/b").mkdir(parents=True)
    (root / "memory/job").mkdir(parents=True)
    for name, text in {
        "a/b/memory.max": "max", "a/b/memory.current": "1", "a/b/memory.stat": "inactive_file 1",
        "a/memory.max": "1000", "a/memory.current": "700", "a/memory.stat": "anon 5\ninactive_file 200",
        "memory/job/memory.limit_in_bytes": "900", "memory/job/memory.usage_in_bytes": "800",
        "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 50",
    }.items():  # fmt: skip
        (root / name).write_text(text)
    membership.write_text("0::/a/b\n")
    assert list(memory._limits(membership, root)) == [500]
    membership.write_text("5:cpu:/job\n4:memory:/job\n")
    assert list(memory._limits(membership, root)) == [150]
    assert list(memory._limits(tmp_path / "absent", root)) == []
