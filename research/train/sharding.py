"""Which device holds what: one mesh (data, fsdp, tensor) and one table from parameter paths to mesh axes.

Data parallelism is a mesh of `data` devices, fully sharded data parallelism one of `fsdp`, tensor parallelism one of
`tensor`; XLA derives every communication of the step from where its arguments lie.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from research.config import Mesh
from research.models.paths import flatten
from research.train import paths
from research.types import UserError

P = PartitionSpec

# First match wins. Optimizer moments carry the path of their parameter at the end of their own, so the same table
# places them. Every matrix of every model has a rule; vectors without one, such as norms, are replicated. A projection
# that opens a branch of a block is split by columns over `tensor`, one that closes it by rows: each branch then costs
# one sum over these devices (Shoeybi et al., 2019, section 3).
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"tokens/embedding$", P("tensor", "fsdp")),
    (r"(positions|types)/embedding$", P(None, "fsdp")),
    (r"relative/embedding$", P(None, "tensor")),
    (r"(query|key|value|up|gate)/kernel$", P("fsdp", "tensor")),
    (r"(query|key|value|up|gate)/bias$", P("tensor")),
    (r"(query|key|value|up|gate)/lora_a$", P("fsdp", None)),
    (r"(query|key|value|up|gate)/lora_b$", P(None, "tensor")),
    (r"(out|down)/kernel$", P("tensor", "fsdp")),
    (r"(out|down)/lora_a$", P("tensor", None)),
    (r"(out|down)/lora_b$", P(None, "fsdp")),
    (r"head/kernel$", P("tensor", "fsdp")),
    (r"head/bias$", P("tensor")),
    # Whole on every tensor device: one matrix of a model is not worth two sums over them.
    (r"(transform|pooler)/(kernel|lora_a)$", P("fsdp", None)),
    (r"(transform|pooler)/lora_b$", P(None, None)),
    (r"classifier/kernel$", P(None, None)),  # a few labels
    # Likewise, as a recurrent layer would wait for the other devices at every step. Of these models, and of the
    # feed-forward one, the words' vectors and the projection onto the vocabulary are split, by far the largest parts.
    (r"block_\d+/(input|recurrent)/kernel$|decoder/block_0/kernel$", P("fsdp", None)),
    (r"^carry/", P(("data", "fsdp"), None)),  # a row each, as those of a batch
)


def create_mesh(config: Mesh, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Return the mesh over `devices` (default: all there are), or over the first of them where it needs fewer.

    Axis types are Auto on purpose: `jax.make_mesh` defaults to Explicit axes, under which Linen's Embed raises.

    Raises:
        UserError: As `sizes`; or a process would be left without a device.
    """
    devices = jax.devices() if devices is None else devices
    shape = sizes(config, len(devices), devices[0].platform)
    used = devices[: math.prod(shape)]
    if left := {device.process_index for device in devices} - {device.process_index for device in used}:
        raise UserError(
            f"the mesh takes {len(used)} of {len(devices)} devices, and none of process {min(left)}: set mesh.data 0 for all "
            "that mesh.fsdp and mesh.tensor leave, or start fewer processes"
        )
    return jax.sharding.Mesh(np.asarray(used).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def sizes(config: Mesh, devices: int, platform: str = "any") -> tuple[int, int, int]:
    """Return the sizes of the axes data, fsdp and tensor of a mesh over so many devices.

    Raises:
        UserError: A size is below 1, or the mesh needs more devices.
    """
    if min(config.fsdp, config.tensor) < 1 or config.data < 0:
        shape = (config.data, config.fsdp, config.tensor)
        raise UserError(f"mesh {shape} has a size below 1: only mesh.data may be 0, for all devices left")
    rest = config.fsdp * config.tensor
    data = config.data or max(1, devices // rest)
    if data * rest > devices:
        raise UserError(
            f"mesh.data {data} x mesh.fsdp {config.fsdp} x mesh.tensor {config.tensor} needs {data * rest} devices, "
            f"but there are {devices} ({platform}): lower them, or set mesh.data 0 for all that are left"
        )
    return data, config.fsdp, config.tensor


def check_batch(batch_size: int, microbatches: int, mesh: jax.sharding.Mesh) -> None:
    """Refuse a batch whose rows cannot be spread evenly.

    Raises:
        UserError: batch_size is no multiple of microbatches x data x fsdp.
    """
    parts = microbatches * mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise UserError(
            f"batch_size {batch_size} does not divide by {parts} (microbatches {microbatches} x mesh.data "
            f"{mesh.shape['data']} x mesh.fsdp {mesh.shape['fsdp']}): choose a multiple of {parts}"
        )


def batch_sharding(mesh: jax.sharding.Mesh, *others: Any) -> NamedSharding:
    """Return where [B, ...] arrays lie: rows over data and fsdp, and the axes behind them over `others`, if any."""
    return NamedSharding(mesh, P(("data", "fsdp"), *others))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the placement of values that every device holds."""
    return NamedSharding(mesh, P())


def shardings(tree: Any, mesh: jax.sharding.Mesh, arch: Any = None) -> Any:
    """Return the NamedSharding of every leaf of `tree` (arrays or shapes), by path; see `spec`."""
    return paths.map_named(lambda path, leaf: NamedSharding(mesh, spec(path, leaf.shape, mesh.shape, arch)), tree)


def placed(shapes: Any, mesh: jax.sharding.Mesh, arch: Any = None) -> tuple[Any, Any]:
    """Return jax.ShapeDtypeStruct leaves of `shapes` that know their shardings, and these."""
    places = shardings(shapes, mesh, arch)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places), places


def gathered(params: Any, mesh: jax.sharding.Mesh, arch: Any = None) -> Any:
    """Return `params`, inside jit, whole along the fsdp axis: what the step computes with.

    Left to itself, XLA contracts over the sharded width and lets every fsdp device compute the whole batch. With this
    the weights are gathered where they are used, and their gradients scattered, which is what fsdp means (Rajbhandari
    et al., 2020, stage 3, who gather once more for the backward pass; here what was gathered is kept for it).
    """
    if mesh.shape["fsdp"] == 1:
        return params

    def whole(path: str, leaf: jax.Array) -> jax.Array:
        kept = spec(path, leaf.shape, mesh.shape, arch)
        wanted = P(*(None if axis == "fsdp" else axis for axis in kept))
        return leaf if wanted == kept else _moved(NamedSharding(mesh, kept), NamedSharding(mesh, wanted), leaf)

    return paths.map_named(whole, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _moved(kept: NamedSharding, wanted: NamedSharding, leaf: jax.Array) -> jax.Array:
    """Return `leaf`, that lies as `kept` says, as `wanted`; its gradient goes the other way."""
    return jax.lax.with_sharding_constraint(leaf, wanted)


def _back(kept: NamedSharding, wanted: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # Summed over the rows, and then each device's part of it: XLA makes both a reduce-scatter, but on CPUs, where it
    # has no such pass. Asked for the part alone, it moves the states of all rows instead.
    whole = jax.lax.with_sharding_constraint(gradient, wanted)
    return (jax.lax.with_sharding_constraint(whole, kept),)


_moved.defvjp(lambda kept, wanted, leaf: (_moved(kept, wanted, leaf), None), _back)


def spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int], arch: Any = None) -> PartitionSpec:
    """Return how the table splits an array on a mesh of these `sizes`; what they do not divide is not split.

    Matrices of attention are split between the heads of `arch`, never within one.
    """
    rule = _rule(path, shape)
    return P(*(axis if axis and not _uneven(path, axis, size, sizes, arch) else None for axis, size in rule))


def not_split(params: Any, mesh: jax.sharding.Mesh, arch: Any = None) -> list[str]:
    """Return a line for every size of `params`, nested, that the table would split and `mesh` does not divide."""
    found: dict[tuple[str, str], list[str]] = {}
    for path, leaf in flatten(params).items():
        for axis, size in _rule(path, leaf.shape):
            if axis and (units := _uneven(path, axis, size, mesh.shape, arch)):
                alike = found.setdefault((axis, units), [])
                name = re.sub(r"block_\d+", "block_*", path)
                alike.extend([] if name in alike else [name])
    lines = []
    for (axis, units), (first, *others) in found.items():
        more = f" and {len(others)} more" if others else ""
        ways = mesh.shape[axis]
        lines.append(f"mesh.{axis} {ways} does not divide the {units} of {first}{more}: each of its devices has all")
    return lines


def _rule(path: str, shape: tuple[int, ...]) -> list[tuple[Any, int]]:
    """Return the mesh axis or axes that each dimension is split over where they divide it, and its size."""
    rule = next((rule for pattern, rule in RULES if re.search(pattern, path)), ())
    if len(rule) != len(shape):  # scalars, and Adafactor's factored moments
        rule = (None,) * len(shape)
    return list(zip(rule, shape, strict=True))


def _uneven(path: str, axis: str | tuple[str, ...], size: int, sizes: Mapping[str, int], arch: Any) -> str:
    """Return how many of what cannot be split evenly over `axis`; nothing where they can."""
    ways = math.prod(sizes[name] for name in (axis if isinstance(axis, tuple) else (axis,)))
    if axis == "tensor" and "attention/" in path and arch is not None and arch.heads % ways:
        return f"{arch.heads} heads"
    return f"{size}" if size % ways else ""
