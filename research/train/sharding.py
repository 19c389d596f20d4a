"""Which device holds what: one mesh (data, fsdp, tensor) and one table from parameter paths to mesh axes.

Data parallelism is a mesh of `data` devices, fully sharded data parallelism one of `fsdp`, tensor parallelism one of
`tensor`; XLA derives every communication of the step from where its arguments lie.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from research.config import Mesh
from research.train import paths
from research.types import UserError

P = PartitionSpec

# First match wins; anything else is replicated. Optimizer moments carry the path of their parameter at the end of
# their own, so the same table places them.
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
    (r"(transform|pooler)/kernel$", P("fsdp", None)),
    (r"block_\d+/(input|recurrent)/kernel$|^decoder/block_0/kernel$", P("fsdp", None)),  # of recurrent, feed-forward
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


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return where [B, ...] arrays lie: rows over data and fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the placement of values that every device holds."""
    return NamedSharding(mesh, P())


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return the NamedSharding of every leaf of `tree` (arrays or shapes), by path.

    An axis that does not divide its dimension is left out: that dimension is replicated.
    """
    return paths.map_named(lambda path, leaf: NamedSharding(mesh, _fitted(path, leaf.shape, mesh)), tree)


def placed(shapes: Any, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """Return jax.ShapeDtypeStruct leaves of `shapes` that know their shardings, and these."""
    places = shardings(shapes, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places), places


def gathered(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return `params`, inside jit, whole along the fsdp axis: what the step computes with.

    Left to itself, XLA contracts over the sharded width and lets every fsdp device compute the whole batch. With this
    the weights are gathered where they are used, and their gradients scattered, which is what fsdp means (Rajbhandari
    et al., 2020, stage 3).
    """
    if mesh.shape["fsdp"] == 1:
        return params

    def whole(path: str, leaf: jax.Array) -> jax.Array:
        spec = P(*(None if axis == "fsdp" else axis for axis in _fitted(path, leaf.shape, mesh)))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return paths.map_named(whole, params)


def _fitted(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    spec = next((spec for pattern, spec in RULES if re.search(pattern, path)), P())
    if len(spec) != len(shape):  # scalars, and Adafactor's factored moments
        return P()
    return P(*(axis if axis and size % _ways(axis, mesh) == 0 else None for axis, size in zip(spec, shape, strict=True)))


def _ways(axis: str | tuple[str, ...], mesh: jax.sharding.Mesh) -> int:
    return math.prod(mesh.shape[name] for name in (axis if isinstance(axis, tuple) else (axis,)))
