"""What shapes a model's parameters have, and those of them that are trained: by arithmetic, like blocks together."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from research.models.arch import Arch
from research.models.paths import flatten

if TYPE_CHECKING:
    from research.config import Adapter

BLOCKS = 1000  # whose paths an adapter is asked about; of more, the share of these


class Shape(NamedTuple):
    """Parameters that have one shape, wherever there are several alike."""

    path: str
    shape: tuple[int, ...]
    times: int


def parameters(arch: Arch) -> Iterator[Shape]:
    """Yield every parameter's path and shape, of which a path with block_* stands for those of all blocks alike."""
    if not isinstance(arch, Arch):
        from research.models.build import parameter_shapes

        yield from (Shape(path, leaf.shape, 1) for path, leaf in flatten(parameter_shapes(arch)).items())
        return
    width, inner = arch.width, arch.attention_width

    def dense(path: str, inputs: int, outputs: int, bias: bool, times: int = 1) -> Iterator[Shape]:
        yield Shape(f"{path}/kernel", (inputs, outputs), times)
        if bias:
            yield Shape(f"{path}/bias", (outputs,), times)

    def norm(path: str, times: int = 1, kind: str = arch.norm) -> Iterator[Shape]:
        for name in ("scale", "bias") if kind == "layer" else ("scale",):
            yield Shape(f"{path}/{name}", (width,), times)

    def attention(path: str, times: int) -> Iterator[Shape]:
        for name in ("query", "key", "value"):
            yield from dense(f"{path}/{name}", width, inner, arch.bias, times)
        yield from dense(f"{path}/out", inner, width, arch.bias, times)
        yield from norm(f"{path}_norm", times)

    def stack(name: str, layers: int, cross: bool) -> Iterator[Shape]:
        if arch.positions == "learned":
            yield Shape(f"{name}/positions/embedding", (arch.position_offset + arch.max_length, width), 1)
        else:
            yield Shape(f"{name}/relative/embedding", (arch.relative_buckets, arch.heads), 1)
        if arch.types:
            yield Shape(f"{name}/types/embedding", (arch.types, width), 1)
        if arch.embedding_norm:
            yield from norm(f"{name}/embedding_norm")
        block = f"{name}/block_*"
        yield from attention(f"{block}/self_attention", layers)
        if cross:
            yield from attention(f"{block}/cross_attention", layers)
        for part in ("up", "gate") if arch.gated else ("up",):
            yield from dense(f"{block}/mlp/{part}", width, arch.mlp_width, arch.bias, layers)
        yield from dense(f"{block}/mlp/down", arch.mlp_width, width, arch.bias, layers)
        yield from norm(f"{block}/mlp_norm", layers)
        if arch.final_norm:
            yield from norm(f"{name}/final_norm")

    yield Shape("tokens/embedding", (arch.vocab_size, width), 1)
    if arch.encoder_layers:
        yield from stack("encoder", arch.encoder_layers, False)
    if arch.depth:
        yield from stack("decoder", arch.depth, arch.structure == "encoder-decoder")
    if arch.head_transform:
        yield from dense("head/transform", width, width, True)
        yield from norm("head/norm")
    if not arch.tied:
        yield Shape("head/kernel", (arch.vocab_size, width), 1)
    if arch.head_bias:
        yield Shape("head/bias", (arch.vocab_size,), 1)
    if arch.pooler:
        yield from dense("pooler", width, width, True)
    if arch.head != "vocabulary":
        yield Shape("classifier/kernel", (arch.labels, width), 1)
        if arch.label_bias:
            yield Shape("classifier/bias", (arch.labels,), 1)


def count(shapes: Iterable[Shape]) -> int:
    """Return how many numbers parameters of these shapes are."""
    return sum(math.prod(shape.shape) * shape.times for shape in shapes)


class Trained(NamedTuple):
    """What gradients are taken of."""

    shapes: list[Shape]
    updates: list[Shape]  # those among them that a plain model has not: low-rank updates
    lowest: int  # the lowest layer that has any (see `paths.layer`): no gradient goes below


def trained(adapter: Adapter, arch: Arch) -> Trained:
    """Return the parameters that `adapter` trains of a model of `arch`, those of like blocks together.

    Raises:
        UserError: As `adapter.plan`.
    """
    shapes = list(parameters(arch))
    if adapter.method == "full":
        return Trained(shapes, [], 0)
    from research.models import lora
    from research.train.adapter import plan
    from research.train.paths import layer

    names = {shape: [shape.path.replace("*", str(i)) for i in range(min(shape.times, BLOCKS))] for shape in shapes}
    chosen = plan(adapter, arch, [path for paths in names.values() for path in paths])
    targets = set(chosen.targets)

    def times(shape: Shape, paths: Container[str]) -> int:
        return sum(path in paths for path in names[shape]) * shape.times // len(names[shape])

    whole = [shape._replace(times=n) for shape in shapes if (n := times(shape, chosen.trained))]
    updates = []
    for shape in shapes:
        if n := times(shape, targets):
            place = shape.path.removesuffix("kernel")
            updates.append(Shape(f"{place}{lora.A}", (shape.shape[0], adapter.rank), n))
            updates.append(Shape(f"{place}{lora.B}", (adapter.rank, shape.shape[1]), n))
    return Trained(whole + updates, updates, min(layer(arch, path) for path in {*chosen.trained, *targets}))


def held(shape: Shape, mesh: dict[str, int], arch: Arch) -> int:
    """Return the float32 bytes that each device of a mesh has of parameters of `arch`; see `sharding.spec`."""
    from research.train.sharding import spec

    ways = math.prod(mesh[axis] for axis in spec(shape.path, shape.shape, mesh, arch) if axis)
    return 4 * math.prod(shape.shape) * shape.times // ways
