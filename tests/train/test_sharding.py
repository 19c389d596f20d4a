"""The table of the mesh: it knows every matrix of every model, and splits what can be split evenly."""

import dataclasses
import re

import jax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from research.config import Adapter, Optimizer
from research.models.arch import Arch, with_head
from research.models.build import parameter_shapes
from research.models.paths import flatten
from research.train import adapter, optimizer, sharding
from tests.train.test_meshes import FAMILIES

SPLIT = r"tokens/embedding|head/kernel|(query|key|value|out|up|down|gate)/kernel|relative/embedding"  # over `tensor`


def models():
    """Yield every family with every head that it can have."""
    for arch in FAMILIES.values():
        yield arch
        if isinstance(arch, Arch) and arch.structure != "encoder-decoder":
            yield from (with_head(arch, head, 4) for head in ("sequence", "tokens"))


def rules(path):
    return [rule for pattern, rule in sharding.RULES if re.search(pattern, path)]


def test_every_matrix_of_every_model_meets_a_rule_and_so_do_its_moments():
    for arch in models():
        shapes = parameter_shapes(arch)
        for path, leaf in flatten(shapes).items():
            if len(leaf.shape) == 2:
                assert rules(path) and len(rules(path)[0]) == 2, path
                assert ("tensor" in rules(path)[0]) == bool(re.search(f"({SPLIT})$", path)), path
            assert rules(path)[:1] == rules(f"trainable/{path}")[:1] == rules(f"opt_state/1/mu/{path}")[:1], path


def test_low_rank_updates_lie_as_the_sides_of_their_kernels_do():
    for arch in models():
        shapes = parameter_shapes(arch)
        if not isinstance(arch, Arch):
            continue
        names = "query|key|value|out|up|down|gate|transform|pooler"
        chosen = Adapter("lora", rank=4, targets=rf"({names})/kernel$", whole="")
        trained, _ = jax.eval_shape(lambda s, a=arch, c=chosen: adapter.split(c, a, s, jax.random.key(0)), shapes)
        for path in flatten(trained):
            [kernel] = rules(re.sub("lora_.$", "kernel", path))[:1]
            assert rules(path)[0] == (P(kernel[0], None) if path.endswith("a") else P(None, kernel[1])), path


def test_what_does_not_divide_is_whole_and_told_once():
    arch = dataclasses.replace(FAMILIES["gpt2"], vocab_size=99, heads=3, width=48, layers=2)
    mesh = AbstractMesh((1, 4, 2), ("data", "fsdp", "tensor"))
    assert sharding.spec("tokens/embedding", (99, 48), mesh.shape, arch) == P(None, "fsdp")
    assert sharding.spec("x/block_1/mlp/up/kernel", (48, 64), mesh.shape, arch) == P("fsdp", "tensor")
    for name, shape, rule in (("query", (48, 48), P("fsdp", None)), ("out", (48, 48), P(None, "fsdp"))):
        path = f"decoder/block_0/self_attention/{name}/kernel"
        assert sharding.spec(path, shape, mesh.shape, arch) == rule  # 48 would divide, but cut a head in two
    lines = sharding.not_split(parameter_shapes(arch), mesh, arch)
    assert lines == [
        "mesh.tensor 2 does not divide the 3 heads of decoder/block_*/self_attention/key/bias and 6 more: each of its "
        "devices has all",
        "mesh.tensor 2 does not divide the 99 of tokens/embedding: each of its devices has all",
    ]
    assert not sharding.not_split(parameter_shapes(arch), AbstractMesh((8, 1, 1), ("data", "fsdp", "tensor")), arch)
    narrow = AbstractMesh((1, 5, 1), ("data", "fsdp", "tensor"))
    assert len(sharding.not_split(parameter_shapes(arch), narrow, arch)) == 1  # all are 48 wide


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon", "sgd"])
def test_every_optimizers_state_is_split_evenly(name):
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    rule = optimizer.create(Optimizer(name=name), lambda step: 1.0)
    for family in ("bert", "gpt2", "t5", "lstm"):
        arch = FAMILIES[family]
        state = jax.eval_shape(rule.init, parameter_shapes(arch))
        places = sharding.shardings(state, mesh, arch)
        jax.tree.map(lambda leaf, place: place.shard_shape(leaf.shape), state, places)  # adafactor's dummies are [1]


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_parts_are_those_of_the_mesh(family):
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    shapes = parameter_shapes(FAMILIES[family])
    places = flatten(sharding.shardings(shapes, mesh, FAMILIES[family]))
    local = {path: places[path].shard_shape(leaf.shape) for path, leaf in flatten(shapes).items()}
    assert local["encoder/block_0/self_attention/query/kernel"] == (16, 16)
    assert local["encoder/block_0/mlp/down/kernel"] == (32, 16)
    assert local["tokens/embedding"] == (48, 16)
