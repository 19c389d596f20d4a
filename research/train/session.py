"""A run made ready: its open fields resolved, its data prepared, its functions compiled, its memory checked."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import Run, check, is_task, problem_of, unfused
from research.data import cache
from research.data.batches import Rows
from research.data.corpus import Prepared
from research.data.tokenizer import load, vocabulary
from research.models.arch import with_head
from research.tasks.prepare import Prepared as TaskPrepared
from research.tasks.prepare import prepared_for
from research.train import heap, memory, origin, processes, sharding
from research.train.evaluate import UNIGRAM, evaluator, unigram_nll
from research.train.progress import documents_read
from research.train.step import Trainer, cuda_capability, fuses, trainer
from research.types import Record, Split, UserError, Vocabulary

PROBE_STEPS = 10  # timed after two that warm up, to turn a wall-clock limit into steps


class Session(NamedTuple):
    """Everything that training or evaluating a run needs."""

    run: Run  # resolved: steps and vocabulary size are set
    prepared: Prepared | TaskPrepared
    trainer: Trainer
    training: Rows
    evaluate: Callable[..., dict[str, Any]]
    estimate: memory.Estimate


def open_session(run: Run, recorded: Run | None = None) -> Session:
    """Return the session of `run`; what it leaves open is taken from `recorded`, the resolved run that it resumes.

    Checks go from cheap to dear: the configuration, a published tokenizer, memory, and only then the text.

    Raises:
        UserError: The run cannot work; one line says which field and what to do.
    """
    heap.share()
    if recorded and run.init.path:  # a resumed run has its parameters, and does not need those it started from
        run = origin.like(run, recorded)
    else:
        check(run)
        run = origin.resolve(run)
    run = dataclasses.replace(run, arch=with_head(run.arch, run.objective.head, run.arch.labels))
    check(run, resolved=True)
    if run.compute.attention == "cudnn" and not fuses(run):
        raise UserError(
            "compute.attention is cudnn, and JAX has no NVIDIA GPU of compute capability 8.0 here: let it be auto"
        )
    keep_compiled()
    devices = sharding.create_mesh(run.mesh)
    sharding.check_batch(run.batch_size, run.microbatches, devices)
    if run.arch.vocab_size:
        memory_estimate(run, devices)
    else:  # whatever the text gives, not less than this
        least = dataclasses.replace(run.arch, vocab_size=run.data.tokenizer.sentinels + 6)
        memory_estimate(dataclasses.replace(run, arch=least), devices)
    if run.data.tokenizer.path:
        tokenizer = load(run.data.tokenizer.path)
        run = with_vocabulary(run, vocabulary(tokenizer), run.data.tokenizer.path)
        memory_estimate(run, devices)
    with processes.in_turn("data"), documents_read() as progress:
        prepared = prepared_for(run, progress=progress)
    if processes.agreed("fingerprint", lambda: prepared.fingerprint) != prepared.fingerprint:
        raise UserError(
            "text and tokenizer are not those of process 0: let all hosts read the same files and share TERCET_CACHE, or "
            "name a tokenizer that all have with data.tokenizer.path"
        )
    run = with_labels(run, prepared)
    run = with_vocabulary(run, prepared.vocabulary, "the tokenizer trained on this text")
    estimate = memory_estimate(run, devices)
    keep_freed(estimate)
    training = rows_of(run, prepared, "train")
    run = with_steps(run, training, recorded)
    if run.minutes:
        run = dataclasses.replace(run, steps=probe(run, prepared.vocabulary, devices, training), minutes=0.0)
    compiled = trainer(run, prepared.vocabulary, devices)
    return Session(run, prepared, compiled, training, evaluator(run, prepared.vocabulary, compiled), estimate)


def notes(session: Session) -> list[str]:
    """Return what is computed otherwise than its user may expect: what the mesh cannot split, attention in parts."""
    run = session.run
    lines = sharding.not_split(session.trainer.parameters, session.trainer.mesh, run.arch)
    if run.compute.attention == "auto" and cuda_capability() >= 8.0 and not fuses(run):
        lines.append(f"attention is not cuDNN's: {unfused(run)}")
    return lines


def with_labels(run: Run, prepared: Prepared | TaskPrepared) -> Run:
    """Return `run` with the columns and labels of its task filled in, and a model with as many labels."""
    if not is_task(run):
        return run
    objective = prepared.objective
    labels = len(getattr(objective, "labels", ())) or int(objective.head != "vocabulary")  # a number is one label
    return dataclasses.replace(run, objective=objective, arch=with_head(run.arch, objective.head, labels))


def keep_compiled() -> None:
    """Keep compiled programs in the cache folder, unless JAX was told of another: a second start need not compile.

    Programs of one CPU may not run on another, and home folders are shared: its features name the folder.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            flags = next(line for line in open("/proc/cpuinfo") if line.startswith(("flags", "Features")))  # noqa: SIM115
        except (OSError, StopIteration):
            flags = platform.processor()
        jax.config.update("jax_compilation_cache_dir", str(cache.root() / "compiled" / cache.fingerprint(flags)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed(estimate: memory.Estimate) -> None:
    """Keep the memory that steps on the CPU free, where there is enough of it (see `heap`)."""
    if jax.default_backend() == "cpu":
        heap.keep(estimate.total * estimate.sharing, memory.available())


def memory_estimate(run: Run, mesh: jax.sharding.Mesh) -> memory.Estimate:
    """Return what `run` takes on each device, and refuse it where that is more than there is."""
    estimate = memory.estimate(run, dict(mesh.shape))
    memory.refuse_if_too_large(estimate, memory.available())
    return estimate


def with_vocabulary(run: Run, words: Vocabulary, name: str) -> Run:
    """Return `run` with its vocabulary size set, once its objective and arch are known to fit the tokenizer.

    Raises:
        UserError: The objective needs a token that the tokenizer lacks, or ids lie beyond arch.vocab_size.
    """
    run.objective.check(run.data.length, words)
    if run.arch.vocab_size and run.arch.vocab_size < words.size:
        raise UserError(
            f"arch.vocab_size is {run.arch.vocab_size}, but {name} has ids up to {words.size - 1}: "
            + (
                f"name the tokenizer of {run.init.path} with data.tokenizer.path"
                if run.init.path
                else f"set it to {words.size} or more, or to 0 for the tokenizer's own size"
            )
        )
    size = run.arch.vocab_size or words.size
    return dataclasses.replace(run, arch=dataclasses.replace(run.arch, vocab_size=size))


def with_steps(run: Run, training: Rows, recorded: Run | None) -> Run:
    """Return `run` with epochs turned into steps, and a wall-clock limit into those of the run that it resumes."""
    if run.epochs:
        return dataclasses.replace(run, steps=math.ceil(run.epochs * training.count / run.batch_size), epochs=0.0)
    if run.minutes and recorded and recorded.steps:
        return dataclasses.replace(run, steps=recorded.steps, minutes=0.0)
    return run


def rows_of(run: Run, prepared: Prepared, split: Split, evaluating: bool = False) -> Rows:
    """Return the rows of one split as the objective of `run` reads them."""
    order = "shuffled" if evaluating or split != "train" else None  # evaluation takes rows as they stand
    return prepared.rows(split, run.objective.lookahead, run.batch_size, run.seed, order)


def probe(run: Run, words: Vocabulary, mesh: jax.sharding.Mesh, training: Rows) -> int:
    """Return how many steps fit into run.minutes, from a few timed on a state that is thrown away."""
    compiled = trainer(dataclasses.replace(run, steps=1000), words, mesh)  # the schedule's length costs nothing
    state = compiled.initialize()
    started = time.perf_counter()
    for step in range(2 + PROBE_STEPS):
        if step == 2:
            jax.block_until_ready(state)
            started = time.perf_counter()
        state, _ = compiled.update(state, batch_of(run, compiled, training, step))
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - started) / PROBE_STEPS
    return processes.agreed("probe", lambda: max(1, int(run.minutes * 60 / seconds)))


def batch_of(run: Run, compiled: Trainer, training: Rows, step: int) -> Record:
    """Return the rows of a step on the mesh, of which each process reads its own."""
    own = processes.own_rows(compiled.mesh, run.batch_size)
    return compiled.place(training.batch(step, own), run.batch_size)


def baseline(session: Session, folder: pathlib.Path) -> np.ndarray | None:
    """Return -log of each token's or label's share among the training targets (see `evaluate.unigram_nll`), kept in
    `folder`; None where targets are not one of several."""
    path, run = folder / UNIGRAM, session.run
    if path.exists():
        return np.load(path)
    if problem_of(run) != "single_label":
        return None
    size = run.arch.vocab_size if run.arch.head == "vocabulary" else run.arch.labels
    found = unigram_nll(run, session.prepared.vocabulary, session.training, size)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, found)
    partial.rename(path)
    return found
