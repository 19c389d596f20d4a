"""How much memory a run will take on each device, by arithmetic alone: nothing is allocated, traced or compiled.

What is kept for the backward pass was counted from XLA's buffer assignments of whole steps, on the CPU (see
`activations`). XLA:CPU computes bfloat16 products in float32 and undoes rematerialisation, so neither saves memory
there; for other platforms the counts are those that the two promise.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from research.models import validate
from research.config import averages
from research.models.arch import Arch
from research.models.ladder import FeedForward, Recurrent
from research.models.paths import flatten
from research.objectives.prefix import Prefix
from research.train.peaks import PEAKS, platform_of
from research.types import Lengths, UserError

if TYPE_CHECKING:
    import jax

    from research.config import Adapter, Run

GIB = 2**30
BLOCKS = 1000  # whose paths an adapter is asked about; of more, the share of these
FACTORED = 128  # both sides of a matrix that Adafactor factors are at least this long: optax's default


class Shape(NamedTuple):
    """Parameters that have one shape, wherever there are several alike."""

    path: str
    shape: tuple[int, ...]
    times: int


class Estimate(NamedTuple):
    """Bytes on one device at the peak of a step."""

    parts: dict[str, int]
    sharing: int  # devices that take their memory from the same pool: all of an emulated mesh

    @property
    def total(self) -> int:
        """Return the bytes that one device needs."""
        return sum(self.parts.values())


def estimate(run: Run, mesh: dict[str, int], platform: str | None = None) -> Estimate:
    """Return what one training step of `run` takes on each device of a mesh of these sizes.

    The peak is either where the loss is made, when every activation is alive and few gradients are, or where the
    update is, when all gradients are and no activation is; `activations`, `logits` and `gradients` are those of the
    larger one.

    Args:
        run: Its arch has a vocabulary size.
        mesh: Sizes of the axes data, fsdp and tensor.
        platform: cpu, gpu or tpu; None: that of JAX's default device.

    Raises:
        UserError: The arch contradicts itself.
    """
    if platform is None:
        import jax

        platform = jax.default_backend()
    arch = run.arch
    validate(arch)
    ways = mesh["data"] * mesh["fsdp"]
    rows = -(-run.batch_size // (run.microbatches * ways))
    lengths = run.objective.lengths(run.data.length)
    source, target = _read(arch, lengths)
    outputs = arch.vocab_size if arch.head == "vocabulary" else max(1, arch.labels)

    part = trained(run.adapter, arch)
    sized = lambda shape: (shape, 4 * math.prod(shape.shape) * shape.times // split(shape, mesh))  # noqa: E731
    held = [sized(shape) for shape in part.shapes]
    learning = sum(size for _, size in held)
    weights = sum(sized(shape)[1] for shape in parameters(arch)) + sum(sized(shape)[1] for shape in part.updates)
    slots = sum(_slots(run.optimizer.name, shape, size) for shape, size in held)

    cpu = platform == "cpu"
    small = 4 if cpu or run.compute.dtype == "float32" else 2
    remat = run.compute.remat and not cpu
    if isinstance(arch, Arch):
        whole = isinstance(run.objective, Prefix) or getattr(run.objective, "bidirectional", False)
        scores = (source**2, target**2 if whole else past(target))
        kept = rows * activations(arch, source, target, scores, small, mesh["tensor"], remat, part.lowest)
    else:
        kept = rows * target * ladder_activations(arch, small)
    chunk, several = _chunk(platform, outputs, lengths.scored, rows, mesh["tensor"])
    table = 4 * outputs * (arch.width if isinstance(arch, Arch) else arch.state_width) // (mesh["fsdp"] * mesh["tensor"])
    table *= any(shape.path in ("tokens/embedding", "head/kernel") for shape in part.shapes)
    carried = learning if run.microbatches > 1 else 0
    # At the loss: logits and their gradient, in whose place exponentials stood; the table's is carried between chunks.
    at_loss = {"gradients": carried + (table if several else 0), "activations": kept, "logits": 2 * chunk}
    updating = sum(_update(run.optimizer.name, shape, size) for shape, size in held)
    updating += learning if mesh["data"] > 1 else 0  # what the other devices' gradients are summed into
    at_update = {"gradients": updating, "activations": 0, "logits": 0}
    moving = max(at_loss, at_update, key=lambda parts: sum(parts.values()))
    tokens = run.data.length + run.objective.lookahead + source + target + 2 * lengths.scored
    parts = {
        "parameters": weights,
        "optimizer": slots,
        "averages": learning if averages(run) else 0,
        **moving,
        "batch": 4 * tokens * -(-run.batch_size // ways),
    }
    return Estimate(parts, math.prod(mesh.values()) if cpu else 1)


def _read(arch: Arch, lengths: Lengths) -> tuple[int, int]:
    """Return the tokens that the encoder and the decoder read; objectives for either do not know which it is."""
    if arch.structure == "encoder-decoder":
        return lengths.source, lengths.target
    longest = max(lengths.source, lengths.target)
    return (longest, 0) if arch.structure == "encoder" else (0, longest)


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


def split(shape: Shape, mesh: dict[str, int]) -> int:
    """Return over how many devices the sharding table spreads a parameter; an axis that does not divide is left out."""
    from research.train.sharding import RULES

    spec = next((spec for pattern, spec in RULES if re.search(pattern, shape.path)), ())
    if len(spec) != len(shape.shape):
        return 1
    pairs = zip(spec, shape.shape, strict=True)
    return math.prod(mesh[axis] for axis, size in pairs if axis and size % mesh[axis] == 0)


def _slots(name: str, shape: Shape, size: int) -> int:
    """Return the bytes of optimizer state that parameters of `size` bytes on this device have."""
    if name == "sgd":
        return 0
    if name == "lion":
        return size
    if name == "adafactor":
        long = len(shape.shape) == 2 and min(shape.shape) >= FACTORED
        return 4 * sum(shape.shape) * shape.times if long else size  # factors are on every device
    if name == "muon" and _orthogonal(shape):
        return size
    return 2 * size


def _update(name: str, shape: Shape, size: int) -> int:
    """Return the bytes that the gradients of parameters of `size` bytes take at the update, copies included.

    Measured: the sums and their mean; Adafactor's update beside them; muon iterates on all matrices side by side.
    """
    if name == "muon" and _orthogonal(shape):
        return 5 * size
    return (3 if name == "adafactor" else 2) * size


def _orthogonal(shape: Shape) -> bool:
    return "/block_" in shape.path and shape.path.endswith("kernel")


def activations(
    arch: Arch, source: int, target: int, own: tuple[int, int], small: int, tensor: int, remat: bool, lowest: int = 0
) -> int:
    """Return the bytes that one row keeps for its backward pass, the vocabulary projection apart.

    `own` are the scores that each head of the encoder and of the decoder computes in attending to its own tokens.
    Elements per token and block, as XLA keeps them in a step of ours: 9.5 D, 4 A, 3 F (2 with ReLU, whose sign is in
    its output), and 2.75 for each head and key; dropout makes that 10 D and 4 for each head and key, and one F more
    where it is inside the feed-forward block. A block with cross-attention adds 5 D and 2 A for each target and 2 A for
    each source token. Around the blocks, 5 D a token, and 3 D more where embeddings are normalised. Scores are float32
    whatever the type of the rest. Blocks below the `lowest` layer that is trained keep nothing; those above it are
    counted as if all of each were trained: a fourth too much for LoRA, twice for the head alone. Whole estimates of the
    tests' shapes are between 2 and 16 % above what the compiled step takes on one CPU device.
    """
    heads, inner = arch.heads / tensor, arch.attention_width / tensor
    wide = (3 - (arch.activation == "relu") + bool(arch.activation_dropout) + arch.gated) * arch.mlp_width / tensor
    narrow = (9.5 + 0.5 * bool(arch.dropout)) * arch.width
    scores = 2.75 + 1.25 * bool(arch.attention_dropout)

    def block(tokens: int, seen: int, keys: int = 0) -> float:
        own = tokens * small * (narrow + 4 * inner + wide) + 4 * scores * heads * seen
        across = small * (tokens * 5 * arch.width + 2 * inner * (tokens + keys)) + 4 * scores * heads * tokens * keys
        return own + (across if keys else 0)

    def stack(tokens: int, layers: int, seen: int, keys: int = 0) -> float:
        one = block(tokens, seen, keys)
        inputs = small * arch.width * tokens * layers
        return min(layers * one, inputs + one) if remat else layers * one

    def keeping(layers: int, first: int) -> int:  # one block, at least, is being computed
        return min(layers, max(1, first + layers - lowest))

    encoder, decoder = keeping(arch.encoder_layers, 1), keeping(arch.depth, arch.encoder_layers + 1)
    around = small * (5 + 3 * arch.embedding_norm) * arch.width * (source + target)
    return int(around + stack(source, encoder, own[0]) + stack(target, decoder, own[1], source))


def past(tokens: int) -> int:
    """Return how many scores causal attention computes of a row of `tokens`; see `attention.attend_past`."""
    from research.models.attention import past_part

    size = past_part(tokens)
    return sum((min(start + size, tokens) - start) * min(start + size, tokens) for start in range(0, tokens, size))


def ladder_activations(arch: FeedForward | Recurrent, small: int) -> int:
    """Return the bytes that a token keeps for its backward pass in a model that is no transformer.

    A recurrent layer keeps its inputs, the inputs' part of its gates and its outputs, and all that a step computes.
    """
    if isinstance(arch, FeedForward):
        return small * (arch.context * arch.width * (3 + arch.direct) + 3 * arch.hidden_width)
    from research.models.recurrent import GATES

    inputs = (arch.width, *arch.widths[:-1])
    gates = GATES[arch.cell]
    return sum(2 * small * fan_in + 4 * (4 * gates + 4) * width for fan_in, width in zip(inputs, arch.widths, strict=True))


def _chunk(platform: str, vocabulary: int, scored: int, rows: int, tensor: int) -> tuple[int, bool]:
    """Return the bytes of one chunk of logits, and whether there are several; see `loss.vocabulary_loss`."""
    from research.train.loss import chunk_bytes

    positions = max(1, chunk_bytes(platform) // (4 * vocabulary * rows))
    chunks = -(-scored // positions)
    return 4 * vocabulary * rows * -(-scored // chunks) // tensor, chunks > 1


def reserved(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that XLA reserves on each device for a compiled step: arguments, results and all between them."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes


# --- what there is ----------------------------------------------------------------------------------------------------


def available() -> int:
    """Return the free bytes of the first device: an accelerator's own memory, or the machine's within its limits."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return of_machine()


def of_machine() -> int:
    """Return the free bytes of the machine's own memory, within the limits of this process."""
    import psutil

    limits = _limits(pathlib.Path("/proc/self/cgroup"), pathlib.Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().available, *limits])


def _limits(membership: pathlib.Path, root: pathlib.Path) -> Iterator[int]:
    """Yield what each control group around this process leaves, versions 1 and 2: containers show the host's memory."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        names = ("memory.max", "memory.current")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                counts = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group here, or no limit ("max")
                continue
            cache = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))  # given up when needed
            yield max(0, limit - used + cache)


def usable(device: str) -> int:
    """Return the bytes that JAX takes of a device that is in `peaks`, unless told otherwise: three quarters of a GPU's."""
    return int(PEAKS[device].memory * (0.75 if platform_of(device) == "gpu" else 1))


def refuse_if_too_large(needed: Estimate, free: int) -> None:
    """Refuse a run that does not fit.

    Raises:
        UserError: As `complaint` says.
    """
    if said := complaint(needed, free):
        raise UserError(said)


def complaint(needed: Estimate, free: int) -> str:
    """Return one line with the estimate, its parts, and what to change first; nothing where it fits."""
    if needed.total * needed.sharing <= free:
        return ""
    largest = max(needed.parts, key=needed.parts.__getitem__)
    remedy = {
        "activations": "raise microbatches, or lower batch_size, data.length or arch.layers",
        "logits": "raise microbatches, or lower arch.vocab_size or batch_size",
        "batch": "lower batch_size or data.length",
    }.get(largest, "lower arch.width, arch.layers or arch.vocab_size, or raise mesh.fsdp where there are more devices")
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in needed.parts.items() if size)
    where = f" on each of {needed.sharing} devices that share it" if needed.sharing > 1 else ""
    sizes = f"about {_gib(needed.total)} GiB{where}, but {_gib(free)} GiB are free ({parts})"
    return f"the run needs {sizes}: {remedy}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}" if size < 1e6 * GIB else f"{size / GIB:.1e}"
