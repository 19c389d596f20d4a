"""What a step sends between devices beside what it computes, on paper and compiled, and where meshes stop paying.

Command:  python -m experiments.scaling [--model bert-base-uncased gpt2 t5-base bart-base] [--compile] [--devices 8 64 256]
Cost:     on paper 20 s; compiled, for as many CPU devices as are named and with no parameter allocated, one to two minutes
          each for a model and a number of devices.
Result:   experiments/results/scaling.txt; experiments/scaling.md says what follows from it.
Source:   published shapes and batches: BERT-base, 256 rows of 512 tokens (Devlin et al., 2019, appendix A.2); GPT-2 124M,
          512 of 1,024 (Radford et al., 2019, section 2.3); T5-base, 128 of 512 (Raffel et al., 2020, section 3.1.2);
          BART-base, 8,000 (Lewis et al., 2020, section 5.1) of 512.
          Peaks of an H100 SXM: 989 TFLOP/s of dense bfloat16 products, NVLink with 900 GB/s in both directions together
          (NVIDIA H100 datasheet), and a port of 400 Gb/s for each device of a node (NVIDIA DGX H100 user guide).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from research.config import Run
    from research.types import Vocabulary

Sizes = dict[str, int]  # of the axes data, fsdp and tensor

PEAK = 989e12  # operations a second
NVLINK, PORT = 450e9, 50e9  # bytes a second that a device sends within its node, and over its port of the network
NODE = 8  # devices
UTILISATION = 0.4  # share of the peak that the products of a step are taken to reach
ONE: Sizes = {"data": 1, "fsdp": 1, "tensor": 1}


class Model(NamedTuple):
    """A published model as it was pre-trained."""

    objective: str
    length: int  # data.length
    rows: int  # of an update


MODELS = {
    "bert-base-uncased": Model("masked", 512, 256),
    "gpt2": Model("causal", 1024, 512),
    "t5-base": Model("span_corruption", 568, 128),  # 512 tokens read, 114 written
    "bart-base": Model("denoising", 512, 8192),  # published are 8,000, which fewer meshes divide
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    parser.add_argument("--devices", nargs="+", type=int, choices=(8, 64, 256), default=[8, 64, 256], help="default: all")
    parser.add_argument("--compile", action="store_true", help="count the bytes of compiled programs, too")
    parser.add_argument("--program", help=argparse.SUPPRESS)  # what a process of as many devices is told
    options = parser.parse_args()
    if options.program:
        name, several = json.loads(options.program)
        print(json.dumps([[compiled(name, sizes, layers) for layers in (1, 2)] for sizes in several]))
        return
    for name in options.model:
        table(name, options.devices, options.compile)
        limits(name)


def table(name: str, devices: list[int], compiling: bool) -> None:
    """Print what a device computes and sends in an update of the published batch, for each mesh."""
    model = MODELS[name]
    print(f"\n{name}: an update of {model.rows} rows of {model.length} tokens in float32; of each device")
    columns = f"{'data':>5}{'fsdp':>5}{'tensor':>7}{'TFLOP':>8}{'MB sent along data':>20}{'fsdp':>7}{'tensor':>8}"
    columns += f"{'compiled: data':>17}{'fsdp':>7}{'tensor':>8}{'of paper':>10}" if compiling else ""
    print(columns + f"{'of products, H100':>19}")
    for count in devices:
        several = meshes(name, count)
        programs = in_full_depth(name, several) if compiling else [{}] * len(several)
        for sizes, found in zip(several, programs, strict=True):
            expected = paper(name, sizes)
            line = "{:>5}{:>5}{:>7}".format(*sizes.values()) + f"{work(name) / count / 1e12:>8.2f}"
            line += "{:>20,.0f}{:>7,.0f}{:>8,.0f}".format(*(sent / 1e6 for sent in expected.values()))
            if compiling:
                line += "{:>17,.0f}{:>7,.0f}{:>8,.0f}".format(*(sent / 1e6 for sent in found.values()))
                line += f"{sum(found.values()) / sum(expected.values()):>10.2f}"
            print(f"{line}{waiting(name, sizes):>19.2f}", flush=True)


def limits(name: str) -> None:
    """Print how few tokens a device may have before its exchanges take as long as its products."""
    tokens = MODELS[name].rows * MODELS[name].length
    print(f"\n{name}, bfloat16 on H100s at {UTILISATION:.0%} of their peak: exchanges take as long as products")
    for axis in ("data", "fsdp"):
        for where, count in (("in a node", NODE), ("over nodes", 256)):
            least = waiting(name, ONE | {axis: count}) * tokens / count
            print(f"  along {axis}, {where + ',':<11} at {least:>6,.0f} tokens a device: {tokens / least:>4,.0f} devices")
    print("  along tensor, at no number of tokens; they take " + ", ".join(
        f"{waiting(name, ONE | {'tensor': ways}):.2f} of the time with {ways} devices" for ways in (2, 4)
    ))  # fmt: skip


def waiting(name: str, sizes: Sizes) -> float:
    """Return how long the exchanges of an update take beside its products, which may hide them up to 1.

    A group of devices along an axis that leaves the node has the ports of all its members.
    """
    seconds, inner = 0.0, 1
    for axis, sent in reversed(paper(name, sizes, 2).items()):
        own = max(1, NODE // inner)  # members of a group in one node
        inner *= sizes[axis]
        seconds += sent / (NVLINK if inner <= NODE else min(NVLINK, own * PORT))
    return seconds / (work(name) / inner / (PEAK * UTILISATION))


def meshes(name: str, count: int) -> list[Sizes]:
    """Return the meshes of `count` devices that are looked at: each axis alone, as far as the batch goes, and mixed."""
    nodes = count // NODE
    found = [ONE | {"data": count}, ONE | {"fsdp": count}]
    found += [{"data": nodes, "fsdp": NODE, "tensor": 1}] if nodes > 1 else [ONE | {"fsdp": 2, "tensor": 4}]
    found += [{"data": nodes, "fsdp": 4, "tensor": 2}]
    return [sizes for sizes in found if MODELS[name].rows % (sizes["data"] * sizes["fsdp"]) == 0]


def published(name: str, sizes: Sizes = ONE, layers: int = 0) -> Run:
    """Return a run of the published shape and batch, or of `layers` blocks (a stack) of it, on a mesh."""
    from research.config import Mesh, Run
    from research.data.corpus import Data
    from research.models import preset
    from research.objectives import OBJECTIVES

    model, arch = MODELS[name], preset(name)
    arch = dataclasses.replace(arch, layers=layers or arch.layers, vocab_size=-(-arch.vocab_size // 64) * 64)
    data = Data(length=model.length)
    return Run(name, arch, OBJECTIVES[model.objective](), data, steps=1, batch_size=model.rows, mesh=Mesh(**sizes))


def vocabulary(size: int) -> Vocabulary:
    """Return one of as many ids; no text is read."""
    import numpy as np

    from research.types import Vocabulary

    ids = np.arange(size)
    special = (ids < 3) | (ids >= size - 100)
    sentinels = ids[: -101 : -1].astype(np.int32)
    return Vocabulary(size, 0, 1, 2, sentinels, ids[:0].astype(np.int32), special, ids < 0, ids == 3)


@functools.cache
def traced(name: str, sizes: tuple[int, ...] = (1, 1, 1), layers: int = 0) -> tuple[Any, dict[str, Any]]:
    """Return the trainer of a published run on a mesh of these sizes, and the shapes of the rows of an update."""
    import jax
    import numpy as np

    from research.train import sharding, step

    run = published(name, dict(zip(ONE, sizes, strict=True)), layers)
    one = step.trainer(run, vocabulary(run.arch.vocab_size), sharding.create_mesh(run.mesh))
    shape = (run.batch_size, run.data.length + run.objective.lookahead)
    return one, {key: jax.ShapeDtypeStruct(shape, np.int32) for key in ("tokens", "segments")}


@functools.cache
def work(name: str) -> int:
    """Return the floating-point operations of an update, those of all devices together."""
    from research.train import flops

    return flops.per_step(*traced(name))


def paper(name: str, sizes: Sizes, width: int = 4, layers: int = 0) -> dict[str, float]:
    """Return the bytes that a device sends along each axis of the mesh in an update, by arithmetic.

    Parameters and their gradients are float32, states are `width` bytes an element. A sum of N bytes over n devices
    sends 2 N (n - 1) / n, a gathering or scattering of N half of that (see `research.train.collectives`). Along data
    gradients are summed; along fsdp parameters are gathered once, and gradients scattered, or summed where they are
    vectors; along tensor states are summed behind each block's two branches, and the gradients of what enters them
    before each projection. The two gradients of a table that is embedding and projection at once travel apart, and so do
    those of T5's bias in each block, which are summed along data and fsdp.
    """
    from research.models.build import parameter_shapes
    from research.models.paths import flatten
    from research.train import sharding

    run = published(name, layers=layers)
    arch, lengths = run.arch, run.objective.lengths(run.data.length)
    part = {axis: (size - 1) / size for axis, size in sizes.items()}
    sent = dict.fromkeys(sizes, 0.0)
    for path, leaf in flatten(parameter_shapes(arch)).items():
        split = sharding.spec(path, leaf.shape, sizes, arch)
        local = 4 * leaf.size / (sizes["tensor"] if "tensor" in split else 1)
        times = 2 if path == "tokens/embedding" and arch.tied else 1
        scattered = "fsdp" in split
        sent["fsdp"] += local * part["fsdp"] * (1 + times if scattered else 2)
        sent["data"] += 2 * times * local / (sizes["fsdp"] if scattered else 1) * part["data"]
    source = lengths.source if arch.structure != "decoder" else 0
    target = lengths.target if arch.structure != "encoder" else 0
    tokens = source + target
    if arch.structure != "encoder-decoder":
        tokens = source = target = max(lengths.source, lengths.target)
    projections = 4 + arch.gated  # that a block's states enter: query, key, value, up, gate
    states = arch.encoder_layers * source * (2 + projections) + arch.depth * target * (2 + projections)
    if arch.structure == "encoder-decoder":
        states += arch.depth * (2 * target + 2 * source)  # behind, and before the query; before key and value
    if arch.positions == "relative":  # each block's gradient of the bias, [H, queries, keys]
        bias = 4 * arch.heads / sizes["tensor"] * (arch.encoder_layers * source**2 + arch.depth * target**2)
        for axis in ("data", "fsdp"):
            sent[axis] += 2 * bias * part[axis]
    numbers = states * arch.width
    if "tensor" in sharding.spec("tokens/embedding", (arch.vocab_size, arch.width), sizes, arch):
        numbers += tokens * arch.width + lengths.scored * (arch.width + 3)  # largest logit, normaliser, target's logit
    rows = run.batch_size / (sizes["data"] * sizes["fsdp"])
    sent["tensor"] = 2 * width * rows * numbers * part["tensor"]
    return sent


def compiled(name: str, sizes: Sizes, layers: int) -> dict[str, float]:
    """Return the same of the program compiled for as many CPU devices, with `layers` blocks (a stack).

    What is exchanged along several axes at once is put down to the first of them.
    """
    from research.train.collectives import collectives

    one, rows = traced(name, tuple(sizes.values()), layers)
    sent = dict.fromkeys(sizes, 0.0)
    for each in collectives(one.update.lower(one.shapes, rows).compile().as_text()):
        sent[each.axes(sizes)[0]] += each.sent
    return sent


def in_full_depth(name: str, several: list[Sizes]) -> list[dict[str, float]]:
    """Return the same of all blocks, for `several` meshes of as many devices: every further block sends what the second
    adds. A process of its own, which has so many, compiles programs of one block and of two."""
    flags = f"--xla_force_host_platform_device_count={math.prod(several[0].values())} --xla_backend_optimization_level=0"
    flags += " --xla_llvm_disable_expensive_passes=true"  # nothing is run
    command = [sys.executable, "-m", "experiments.scaling", "--program", json.dumps([name, several])]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"error: {name} could not be compiled for {several}: {result.stderr.strip().splitlines()[-1:]}")
    more = published(name).arch.layers - 1
    pairs = json.loads(result.stdout)
    return [{axis: first[axis] + more * (second[axis] - first[axis]) for axis in first} for first, second in pairs]


if __name__ == "__main__":
    main()
