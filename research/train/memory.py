"""How much memory a run will take on each device, by arithmetic alone: nothing is allocated, traced or compiled."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from research.models import validate
from research.config import averages, unfused
from research.models.arch import Arch
from research.objectives.prefix import Prefix
from research.train import activations
from research.train.peaks import PEAKS, platform_of
from research.train.shapes import Shape, Trained, held, parameters, trained
from research.types import Lengths, UserError

if TYPE_CHECKING:
    import jax

    from research.config import Run

GIB = 2**30
FACTORED = 128  # both sides of a matrix that Adafactor factors are at least this long: optax's default


class Estimate(NamedTuple):
    """Bytes on one device at the peak of a step."""

    parts: dict[str, int]
    sharing: int  # devices that take their memory from the same pool: all of an emulated mesh
    remat: bool = True  # whether blocks are rematerialised already, or cannot be

    @property
    def total(self) -> int:
        """Return the bytes that one device needs."""
        return sum(self.parts.values())


class Moment(NamedTuple):
    """Bytes on one device that come and go within a step, at a moment when there may be most."""

    gradients: float = 0
    activations: float = 0
    logits: float = 0
    gathered: float = 0  # what `sharding.gathered` makes


def estimate(run: Run, mesh: dict[str, int], platform: str | None = None) -> Estimate:
    """Return what one training step of `run` takes on each device of a mesh of these sizes.

    The peak is where the loss is made, when every activation is alive and few gradients are; in the backward pass of a
    block; or behind it, where gradients are summed or the update is, when all of them are alive and no activation is.
    `gradients`, `activations`, `logits` and `gathered` are those of the largest.

    Of XLA:CPU's own figures for BERT, GPT-2, T5 and BART of three and six blocks, on one device and on four meshes,
    rematerialised or not, it was at worst 15 % off (tensor parallelism with rematerialisation, too high), and 2 % in
    the median. Those of GPUs and TPUs have not been compared.

    Args:
        run: Its arch has a vocabulary size.
        mesh: Sizes of the axes data, fsdp and tensor.
        platform: cpu, gpu (one that cuDNN's attention runs on) or tpu; None: that of JAX's default device.

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

    part = trained(run.adapter, arch)
    every = [*parameters(arch), *part.updates]
    learning = [(shape, held(shape, mesh, arch)) for shape in part.shapes]

    passes = _in_passes(run, mesh, platform, part, rows, source, target)
    whole = [(held(shape, {**mesh, "fsdp": 1}, arch), held(shape, mesh, arch)) for shape in every]
    gathered = sum(size for size, own in whole if size > own)  # kept from the forward to the backward pass
    moments = [moment._replace(gathered=gathered) for moment in passes]
    moments.append(_at_update(run, learning))
    if platform == "cpu" and ways > 1 and isinstance(arch, Arch):
        moments.append(_at_sums(arch, mesh, part))
    moment = max(moments, key=sum)
    tokens = run.data.length + run.objective.lookahead + source + target + 2 * lengths.scored
    parts = {
        "parameters": sum(own for _, own in whole),
        "optimizer": sum(_slots(run.optimizer.name, shape, size) for shape, size in learning),
        "averages": sum(size for _, size in learning) if averages(run) else 0,
        **{name: int(size) for name, size in moment._asdict().items()},
        "batch": 4 * tokens * -(-run.batch_size // ways),
    }
    can = isinstance(arch, Arch) and not run.compute.remat
    return Estimate(parts, math.prod(mesh.values()) if platform == "cpu" else 1, not can)


def _read(arch: Arch, lengths: Lengths) -> tuple[int, int]:
    """Return the tokens that the encoder and the decoder read; objectives for either do not know which it is."""
    if arch.structure == "encoder-decoder":
        return lengths.source, lengths.target
    longest = max(lengths.source, lengths.target)
    return (longest, 0) if arch.structure == "encoder" else (0, longest)


def _in_passes(
    run: Run, mesh: dict[str, int], platform: str, part: Trained, rows: int, source: int, target: int
) -> Iterator[Moment]:
    """Yield the moments of the forward and backward passes when there may be most, with `rows` on each device."""
    arch, cpu = run.arch, platform == "cpu"
    small = 4 if cpu or run.compute.dtype == "float32" else 2
    outputs = arch.vocab_size if arch.head == "vocabulary" else max(1, arch.labels)
    chunk, several = _chunk(platform, outputs, run.objective.lengths(run.data.length).scored, rows, mesh["tensor"])
    table = 4 * outputs * (arch.width if isinstance(arch, Arch) else arch.state_width) // mesh["tensor"]
    table *= any(shape.path in ("tokens/embedding", "head/kernel") for shape in part.shapes)
    gradients = sum(held(shape, mesh, arch) for shape in part.shapes if run.microbatches > 1)  # of those before
    passed: list[activations.Stack] = []
    if isinstance(arch, Arch):
        whole = isinstance(run.objective, Prefix) or getattr(run.objective, "bidirectional", False)
        alone = cpu and math.prod(mesh.values()) == 1
        fused = platform == "gpu" and run.compute.attention != "xla" and not unfused(run)
        computing = activations.Computing(small, mesh["tensor"], alone=alone, fused=fused)
        passed = activations.stacks(arch, computing, rows, source, target, causal=not whole, lowest=part.lowest)
    remat = run.compute.remat

    def kept(stacks: list[activations.Stack]) -> int:
        return sum(stack.layers * (stack.block.input if remat else stack.block.kept) for stack in stacks)

    around = sum(stack.around for stack in passed) or rows * target * activations.ladder(arch, small)
    spread = mesh["data"] * mesh["fsdp"] > 1
    gradients += table  # zeros to add the gradients of looked-up words to, made beforehand
    # Logits and their gradient, in whose place exponentials stood; then the table's gradient.
    yield Moment(gradients, around + kept(passed), 2 * chunk)
    yield Moment(gradients + table, around + kept(passed), 0 if several else chunk)
    scattered = {**mesh, "fsdp": 1} if cpu else mesh  # XLA:CPU sums gradients whole (`sharding.gathered`)
    for at, (name, layers, block, _) in reversed(list(enumerate(passed))):
        blocks = [shape for shape in part.shapes if shape.path.startswith(f"{name}/block_")]
        own = sum(held(shape, scattered, arch) for shape in blocks)
        below = around + kept(passed[:at])
        working = block.working + (block.kept if remat else 0)
        yield Moment(gradients, below + kept(passed[at : at + 1]) + working)
        # Where a sum over devices follows, each block's gradient of the relative bias is summed over rows at once.
        biases = 0 if spread else (layers - 1) * block.bias
        last = (block.input if remat else block.kept) + biases
        yield Moment(gradients + own * (layers - 1) / layers, below + last + working)
        gradients += own


def _at_sums(arch: Arch, mesh: dict[str, int], part: Trained) -> Moment:
    """Return the moment when a mesh of CPUs sums gradients over its devices, all at once.

    There is what goes in beside what comes out; under fsdp this is so of the largest alone. The two uses of a tied table
    are summed apart.
    """
    sizes = {shape.path: held(shape, {**mesh, "fsdp": 1}, arch) for shape in part.shapes}
    table = sizes.pop("tokens/embedding", 0)
    uses = 1 + (arch.tied and arch.head == "vocabulary")
    return Moment(2 * uses * table + sum(sizes.values()) * (2 if mesh["fsdp"] == 1 else 1))


def _at_update(run: Run, learning: list[tuple[Shape, int]]) -> Moment:
    """Return the moment of the update of parameters of these bytes."""
    gradients = sum(_update(run.optimizer.name, shape, size) for shape, size in learning)
    return Moment(gradients)


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


def _chunk(platform: str, vocabulary: int, scored: int, rows: int, tensor: int) -> tuple[int, bool]:
    """Return the bytes of one chunk of logits, and whether there are several; see `loss.vocabulary_loss`."""
    from research.train.loss import chunk_bytes

    positions = max(1, chunk_bytes(platform) // (4 * vocabulary * rows))
    chunks = -(-scored // positions)
    return 4 * vocabulary * rows * -(-scored // chunks) // tensor, chunks > 1


def reserved(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that XLA reserves on each device for a compiled step: arguments, results, all between them."""
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
    """Return the bytes that JAX takes of a device of PEAKS, unless told otherwise: three quarters of a GPU's."""
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
    remat = "" if needed.remat else "set compute.remat True, "
    model = "where there are more devices, or lower arch.width, arch.layers or arch.vocab_size"
    remedy = {
        "activations": f"{remat}raise microbatches, or lower batch_size, data.length or arch.layers",
        "logits": "raise microbatches, or lower arch.vocab_size or batch_size",
        "gathered": f"raise mesh.tensor {model}",
        "batch": "lower batch_size or data.length",
    }.get(largest, f"raise mesh.fsdp {model}")
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in needed.parts.items() if size)
    where = f" on each of {needed.sharing} devices that share it" if needed.sharing > 1 else ""
    sizes = f"about {_gib(needed.total)} GiB{where}, but {_gib(free)} GiB are free ({parts})"
    return f"the run needs {sizes}; the largest part is {largest}: {remedy}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}" if size < 1e6 * GIB else f"{size / GIB:.1e}"
