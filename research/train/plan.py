"""What a run will take, before anything is allocated: operations, time, cost, and what a budget buys.

Nothing here reads running text; records of a task are read, since they say how many rows, steps and labels there are.
What a step needs in memory is `memory.estimate`'s.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from research.config import Mesh, Run, check, is_task
from research.data.tokenizer import Tokenizer, load, promised, vocabulary
from research.models.arch import Arch, with_head
from research.tasks.prepare import prepared_for
from research.train import flops, memory, origin, shapes, sharding
from research.train.peaks import PEAKS, peak_of
from research.train.progress import Progress, documents_read
from research.train.session import memory_estimate, rows_of, with_labels, with_steps, with_vocabulary
from research.train.step import trainer
from research.types import Record, Vocabulary

SENTINELS = 100  # of a published tokenizer that is not loaded: T5's
TOKENS_PER_PARAMETER = 20  # of a compute-optimal model (Hoffmann et al., 2022, table 3)
PROBE_SECONDS = 30.0
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # no buffer depends on these
WARM, LEAST = 2, 3  # steps before the clock starts; steps that are timed whatever they take


class Subject(NamedTuple):
    """A run of which all sizes are known, and what its step is to be traced or timed with."""

    run: Run
    vocabulary: Vocabulary
    batch: Callable[[Run], Record]  # rows as the objective reads them, for a run of any batch size
    notes: list[str]  # what was taken for granted


class Work(NamedTuple):
    """What one update is."""

    parameters: int
    trained: int
    tokens: int  # read, padding included: what logs count
    flops: int  # of all devices, as `flops.per_step` counts them, without what rematerialisation computes again
    again: int  # which is this


class Speed(NamedTuple):
    """How fast the whole mesh is."""

    tokens_per_s: float
    flops_per_s: float  # of one device, of `Work.flops` alone
    told: str  # where that comes from


class Purchase(NamedTuple):
    """What a number of operations buys."""

    flops: float
    parameters: float
    tokens: float


def subject(run: Run) -> Subject:
    """Return `run` with its open sizes resolved as `session.open_session` does, but for a text that is not read.

    Raises:
        UserError: The run cannot work; one line says which field and what to do.
    """
    check(run)
    run = origin.resolve(run)
    run = dataclasses.replace(run, arch=with_head(run.arch, run.objective.head, run.arch.labels))
    check(run, resolved=True)
    if is_task(run):
        with documents_read() as progress:
            prepared = prepared_for(run, ("train",), progress)
        run = with_vocabulary(with_labels(run, prepared), prepared.vocabulary, "the tokenizer")
        run = with_steps(run, rows_of(run, prepared, "train"), None)
        return Subject(run, prepared.vocabulary, lambda run: rows_of(run, prepared, "train").batch(0), [])
    tokenizer, notes = run.data.tokenizer, []
    if run.arch.vocab_size:
        words = stand_in(tokenizer, run.arch.vocab_size)
    elif tokenizer.path:
        words = vocabulary(load(tokenizer.path))
    else:
        words = stand_in(tokenizer, tokenizer.size)
        notes.append(f"{words.size:,} ids are taken for granted (data.tokenizer.size); a short text has fewer")
    run = with_vocabulary(run, words, tokenizer.path or "the tokenizer")
    return Subject(run, words, lambda run: drawn(run, words), notes)


def stand_in(config: Tokenizer, size: int) -> Vocabulary:
    """Return a vocabulary of `size` ids with every special token: what a step computes does not depend on the ids."""
    if config.path:  # published: nobody knows how many it has until it is loaded
        room = max(0, size - promised(Tokenizer(sentinels=0)).size)
        config = dataclasses.replace(config, sentinels=min(SENTINELS, room))
    words = promised(config)
    no = np.zeros(max(0, size - words.size), bool)
    kinds = {name: np.append(getattr(words, name), no) for name in ("special", "continues", "ends_sentence")}
    return words._replace(size=words.size + len(no), **kinds)


def drawn(run: Run, words: Vocabulary) -> Record:
    """Return a batch of rows of ordinary tokens, drawn evenly, each of one document."""
    ordinary = np.flatnonzero(~words.special)
    shape = (run.batch_size, run.data.length + run.objective.lookahead)
    tokens = np.random.default_rng(0).choice(ordinary, shape).astype(np.int32)
    return {"tokens": tokens, "segments": np.ones(shape, np.int32)}


def work(subject: Subject) -> Work:
    """Return what one update of the run is, from shapes alone: steps are traced, not compiled."""
    run = subject.run
    kept = _products(subject, dataclasses.replace(run, compute=dataclasses.replace(run.compute, remat=False)))
    again = _products(subject, run) - kept if run.compute.remat else 0
    part = shapes.trained(run.adapter, run.arch)
    parameters = shapes.count([*shapes.parameters(run.arch), *part.updates])
    return Work(parameters, shapes.count(part.shapes), run.batch_size * run.data.length, kept, again)


def _products(subject: Subject, run: Run) -> int:
    """Return the operations of one update of `run`.

    Each further block of a stack takes as many as the one before it, so that no deep model is traced where all of it is
    trained: models of one block and of two tell.
    """
    if not isinstance(run.arch, Arch) or run.adapter.method != "full":
        return _traced(subject, run)
    depths = {"layers": run.arch.layers}
    if run.arch.structure == "encoder-decoder":
        depths["decoder_layers"] = run.arch.depth

    def of(**deeper: int) -> int:
        arch = dataclasses.replace(run.arch, **{**dict.fromkeys(depths, 1), **deeper})
        return _traced(subject, dataclasses.replace(run, arch=arch))

    least = of()
    return least + sum((depth - 1) * (of(**{name: 2}) - least) for name, depth in depths.items() if depth > 1)


def _traced(subject: Subject, run: Run) -> int:
    run = dataclasses.replace(run, mesh=Mesh(data=1))  # all devices together compute what one would
    return flops.per_step(trainer(run, subject.vocabulary, sharding.create_mesh(run.mesh)), _shapes(subject, run))


def _shapes(subject: Subject, run: Run) -> Record:
    """Return the shapes of a batch of `run`, of which only one row is made."""
    row = subject.batch(dataclasses.replace(run, batch_size=1))
    return {name: jax.ShapeDtypeStruct((run.batch_size, *value.shape[1:]), value.dtype) for name, value in row.items()}


def compiled_bytes(subject: Subject, mesh: jax.sharding.Mesh) -> int:
    """Return the bytes that XLA reserves on each device of `mesh` for a step of the run, which is compiled, not run."""
    step = trainer(subject.run, subject.vocabulary, mesh)
    place = sharding.batch_sharding(mesh)
    rows = {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
        for name, shape in _shapes(subject, subject.run).items()
    }
    quick = QUICK if mesh.devices.flat[0].platform == "cpu" else None
    return memory.reserved(step.update.lower(step.shapes, rows).compile(compiler_options=quick))


def stated(run: Run, work: Work, devices: int, device: str, mfu: float) -> Speed:
    """Return the speed of so many of `device`, one of PEAKS, that reach the share `mfu` of what their maker states.

    What rematerialisation computes again does not count as use (Chowdhery et al., 2022, appendix B).
    """
    peak = peak_of(device, run.compute.dtype)
    told = f"{mfu:.0%} of {peak / 1e12:,.0f} TFLOP/s in {run.compute.dtype} ({PEAKS[device].source})"
    return Speed(mfu * peak * devices * work.tokens / work.flops, mfu * peak, told)


def probe(subject: Subject, work: Work, sizes: Mapping[str, int], seconds: float = PROBE_SECONDS) -> Speed:
    """Return the speed of the run's mesh from steps on random rows, timed for about `seconds` on this machine.

    Of a mesh of more devices than are here one is timed, with the rows that it would have.

    Raises:
        UserError: What is timed does not fit into memory.
    """
    run, devices, rows = subject.run, math.prod(sizes.values()), sizes["data"] * sizes["fsdp"]
    shared = devices > jax.device_count()
    if shared:
        run = dataclasses.replace(run, mesh=Mesh(data=1), batch_size=run.batch_size // rows)
    mesh = sharding.create_mesh(run.mesh)
    memory_estimate(run, mesh)
    step = trainer(dataclasses.replace(run, steps=run.steps or 1000), subject.vocabulary, mesh)  # of no matter to speed
    state, batch = step.initialize(), jax.device_put(subject.batch(run), sharding.batch_sharding(mesh))
    times: list[float] = []
    with Progress(None, "step", "probe") as progress:
        while len(times) < WARM + LEAST or sum(times[WARM:]) < seconds:
            began = time.perf_counter()
            state, metrics = step.update(state, batch)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - began)
            progress.update(len(times))
    median = statistics.median(times[WARM:])
    tokens = run.batch_size * run.data.length * (devices if shared else 1)
    told = f"median of {len(times) - WARM} steps of {run.batch_size} rows, {median:.3g} s each, on {_here(mesh)}"
    if shared:
        told += f", times {devices} as if nothing were lost between devices"
    return Speed(tokens / median, tokens / median * work.flops / work.tokens / devices, told)


def _here(mesh: jax.sharding.Mesh) -> str:
    device = mesh.devices.flat[0]
    return f"{mesh.size} x {device.device_kind}" if mesh.size > 1 else f"one {device.device_kind}"


def optimal(operations: float, ratio: float = TOKENS_PER_PARAMETER) -> Purchase:
    """Return the model that learns most from so many operations, C = 6 N D with D = `ratio` N tokens.

    Hoffmann et al. (2022, section 3 and table 3); 6 N operations a token are Kaplan et al.'s (2020, section 2.1), who
    leave out attention's own.
    """
    parameters = math.sqrt(operations / (6 * ratio))
    return Purchase(operations, parameters, ratio * parameters)
