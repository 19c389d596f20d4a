"""What devices send one another: read rightly from programs, and in those of the step what a mesh should cost."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from research.config import Mesh, Optimizer
from research.models.build import parameter_shapes
from research.models.paths import flatten
from research.train import loss, sharding
from research.train.collectives import collectives
from research.train.step import trainer
from research.types import Vocabulary
from tests.train.test_meshes import PAIRS, make, record

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


def compiled(function, mesh, *shapes, specs):
    places = [NamedSharding(mesh, spec) for spec in specs]
    given = zip(shapes, places, strict=True)
    shapes = [jax.ShapeDtypeStruct(shape, np.float32, sharding=place) for shape, place in given]
    return jax.jit(function).lower(*shapes).compile().as_text()


def test_bytes_of_every_kind_in_loops_and_branches():
    mesh = jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(AxisType.Auto,) * 3)

    def within(x):  # float32[4, 6] on each device
        once = jax.lax.psum(x, ("data", "tensor"))
        turned = jax.lax.fori_loop(0, 5, lambda _, x: jax.lax.ppermute(jnp.sin(x), "fsdp", [(0, 1), (1, 0)]), once)
        gather = lambda x, axis: jax.lax.all_gather(x, axis, tiled=True)  # noqa: E731
        more = lambda x: gather(x, "data")[:4] + gather(x, "fsdp")[4:]  # noqa: E731
        branch = jax.lax.cond(jnp.sum(turned) > 0, more, lambda x: jax.lax.psum(x, "data"), turned)
        part = jax.lax.psum_scatter(jnp.cos(branch), "fsdp", scatter_dimension=1, tiled=True)  # float32[4, 3]
        return jax.lax.all_to_all(part, "tensor", 0, 0, tiled=True)

    spec = P("data", ("fsdp", "tensor"))
    both = jax.shard_map(within, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    found = collectives(compiled(both, mesh, (8, 24), specs=[spec]))
    seen = {(one.kind, one.axes(SIZES)): (one.times, one.sent) for one in found}
    part = 4 * 4 * 6
    assert seen == {
        ("all-reduce", ("data", "tensor")): (1, 2 * part * 3 / 4),
        ("collective-permute", ("fsdp",)): (5, 5 * part),
        ("all-gather", ("data",)): (1, 2 * part / 2),
        ("all-gather", ("fsdp",)): (1, 2 * part / 2),
        ("reduce-scatter", ("fsdp",)): (1, part / 2),
        ("all-to-all", ("tensor",)): (1, part / 2 / 2),
    }


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8], x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1), x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b':(2)2}, x", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
    ],
)
def test_groups_are_read_however_they_are_written(written, groups):
    line = f"  %x = f32[2]{{0}} all-reduce(%y), channel_id=1, {written}"
    (one,) = collectives(f"ENTRY %main (a: f32[2]) -> f32[2] {{\n{line}\n}}\n")
    assert one.groups.tolist() == groups


def test_what_is_not_read_is_refused():
    line = "  %x = (f32[2], f32[4]) all-gather-start(%y), replica_groups={{0,1}}"
    with pytest.raises(NotImplementedError, match="all-gather-start"):
        collectives(f"ENTRY %main (a: f32[2]) -> f32[2] {{\n{line}\n}}\n")


# --- the step ---------------------------------------------------------------------------------------------------------

MESHES = {"fsdp 4": Mesh(1, 4), "tensor 2": Mesh(1, 1, 2), "2 x 2 x 2": Mesh(2, 2, 2), "data 2, fsdp 4": Mesh(2, 4)}
SIZE = 2 * 521  # whose prime no other side of an array is a multiple of
IDS = np.arange(SIZE, dtype=np.int32)
WORDS = Vocabulary(SIZE, 0, 1, 2, IDS[-20:], IDS[3:6], IDS < 6, IDS % 3 == 0, IDS == 9)
RATE = Optimizer(learning_rate=1e-3 + 1e-4 * random.random())  # XLA says nothing of programs that are kept compiled


def program(run):
    """Return the compiled update of `run`, as text."""
    one = trainer(run, WORDS, sharding.create_mesh(run.mesh))
    rows = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in record(run).items()}
    return one.update.lower(one.shapes, rows).compile().as_text()


def as_used(run, sizes):
    """Return {path: (whether it is split along fsdp, its shape as a device has it, whole along that)} of parameters."""
    found = {}
    for path, leaf in flatten(parameter_shapes(run.arch)).items():
        rule = sharding.spec(path, leaf.shape, sizes, run.arch)
        shape = tuple(
            side // (sizes["tensor"] if axis == "tensor" else 1) for side, axis in zip(leaf.shape, rule, strict=True)
        )
        found[path] = ("fsdp" in rule and sizes["fsdp"] > 1, shape)
    return found


def summed_whole(parameters):
    """Return the paths of matrices whose gradients may be summed along fsdp, not scattered: those that it does not split
    (a classifier's), and BERT's types, which are all 0 here, so that their gradient is one vector."""
    return [path for path, (split, _) in parameters.items() if not split or path.endswith("types/embedding")]


def assert_only_what_the_mesh_should_cost(run, text):
    sizes = dict(sharding.create_mesh(run.mesh).shape)
    found = [(one.kind, one.axes(sizes), shape) for one in collectives(text) for shape in one.shapes]
    parameters = as_used(run, sizes)
    whole = sorted(shape for split, shape in parameters.values() if split)
    assert sorted(shape for kind, _, shape in found if kind == "all-gather") == whole  # each once, and nothing else
    assert {axes for kind, axes, _ in found if kind == "all-gather"} <= {("fsdp",)}
    rows = run.batch_size // (sizes["data"] * sizes["fsdp"])
    width = max(run.arch.width, getattr(run.arch, "state_width", 0))  # a feed-forward model projects its context besides
    lengths = run.objective.lengths(run.data.length)
    both = getattr(run.arch, "structure", "") == "encoder-decoder"  # whose two stacks' tokens are looked up at once
    states = rows * (sum if both else max)((lengths.source, lengths.target)) * width
    along_tensor = [shape for _, axes, shape in found if axes == ("tensor",)]
    assert all(math.prod(shape) <= states and math.prod(shape) % 521 for shape in along_tensor)  # no logits, no table
    assert {kind for kind, *_ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    if sizes["data"] == 1:
        scattered = [math.prod(shape) * sizes["fsdp"] for kind, _, shape in found if kind == "reduce-scatter"]
        kept = summed_whole(parameters)
        parts = [math.prod(shape) for path, (_, shape) in parameters.items() if path not in kept]
        assert set(parts) <= set(scattered) <= set(map(math.prod, whole))
        assert len(scattered) >= len(parts)  # of a tied table there are two
        summed = {shape for kind, axes, shape in found if kind == "all-reduce" and "fsdp" in axes and len(shape) > 1}
        if getattr(run.arch, "positions", "") == "relative":  # T5's bias, of which it sums [H, T, S], not the table
            summed = {shape for shape in summed if shape[0] != run.arch.heads // sizes["tensor"] or len(shape) != 3}
        shapes = [parameters[path][1] for path in kept]
        assert summed <= {*shapes, *(shape[::-1] for shape in shapes)}  # some gradients are made transposed


def unwanted(err):
    """Return what XLA says of arrays that it makes whole for want of a better way."""
    return [line for line in err.splitlines() if "full rematerialization" in line]


def test_a_step_gathers_and_scatters_along_fsdp_and_sums_states_along_tensor(capfd, monkeypatch):
    monkeypatch.setattr(loss, "chunk_bytes", lambda platform: 40_000)  # several chunks
    run = make("gpt2", "causal", arch={"vocab_size": SIZE}, mesh=Mesh(1, 2, 2), optimizer=RATE)
    assert_only_what_the_mesh_should_cost(run, program(run))
    assert not unwanted(capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("family", "name"), PAIRS, ids=map(" ".join, PAIRS))
def test_the_step_of_every_family_sends_no_more_than_it_should(family, name, mesh, capfd, monkeypatch):
    monkeypatch.setattr(loss, "chunk_bytes", lambda platform: 40_000)
    run = make(family, name, arch={"vocab_size": SIZE}, mesh=MESHES[mesh], optimizer=RATE)
    assert_only_what_the_mesh_should_cost(run, program(run))
    assert not unwanted(capfd.readouterr().err)


def test_what_xla_makes_whole_would_be_seen(capfd):
    mesh = jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(AxisType.Auto,) * 3)
    place = NamedSharding(mesh, P(None, None, "fsdp"))
    moved = lambda x: jax.lax.with_sharding_constraint(jnp.sin(x), place)  # noqa: E731
    compiled(moved, mesh, (16, 32, 64), specs=[P(("data", "fsdp"))])
    assert unwanted(capfd.readouterr().err)
