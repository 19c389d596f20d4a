"""Evaluation over a whole split with fixed corruption: loss, perplexity, accuracy, bits per byte, and the baseline.

Corruption is keyed by the evaluation row alone: every checkpoint, batch size and device count meets the same masks, so
two evaluations differ only by the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.config import Loss, Run
from research.data.batches import Rows
from research.keys import key
from research.models.heads import output_projection, project
from research.tasks import judge
from research.tasks.rows import Rows as TaskRows
from research.train import processes, sharding
from research.train.loss import token_losses
from research.train.step import Trainer, examples, first_carry, last_states, loss_sums
from research.types import Record, Vocabulary

UNIGRAM = "unigram.npy"  # in a run's folder: what `unigram_nll` returned when it began
UNIGRAM_ROWS = 65_536  # training rows counted for the baseline at most: more would not move it
STREAMS = 10  # that a split is cut into where rows carry state: as many as in PyTorch's example, whatever the batch size
AHEAD = 16  # batches given to the device before their sums are waited for
EVALUATION_SEED = 0  # not the run's: runs of different seeds are compared on the same masks


def evaluator(run: Run, vocabulary: Vocabulary, trained: Trainer) -> Callable[..., dict[str, Any]]:
    """Return evaluate(params, rows, limit=0, unigram=None, answers=None) -> scores over `rows`, or `limit` of them.

    What a model tells of labels is gathered in `answers` (see `judge.gathering`) where its caller wants it too, and of a
    model of tokens the loss of each (see `units.Losses`).
    """
    ways = trained.mesh.shape["data"] * trained.mesh.shape["fsdp"]
    placed = sharding.batch_sharding(trained.mesh)
    whole = sharding.replicated(trained.mesh)
    labelled = run.arch.head != "vocabulary"

    def sums(
        params: Any, record: Record, row: jax.Array, unigram: jax.Array | None, carry: Any
    ) -> tuple[dict[str, jax.Array], Any, Any]:
        params = sharding.gathered(params, trained.mesh, run.arch)
        example = examples(run, vocabulary, _keys(row), record)
        states, carry = last_states(run, trained.model, params, example, carry=carry)
        if labelled:
            found = loss_sums(run, params, states, example, Loss(), trained.mesh)
            made = project(run.arch, params, states)
        else:
            kernel, bias = output_projection(run.arch, params)
            found, nll = token_losses(states, kernel, bias, example.targets, example.weights, mesh=trained.mesh)
            made = (nll, example.weights)
        result = {"nll": found.nll, "correct": found.correct, "weight": found.weight}
        if unigram is not None:
            result["unigram"] = jnp.sum(example.weights * unigram[example.targets])
        if run.objective.likelihood:  # targets are the row's own tokens, shifted: their bytes are known
            result["bytes"] = jnp.sum(jnp.where(example.weights > 0, record["bytes"][:, run.objective.lookahead :], 0))
        return result, made, carry

    params_placed = trained.parameters
    compiled = jax.jit(
        sums,
        in_shardings=(jax.tree.map(lambda x: x.sharding, params_placed), placed, placed, whole, placed),
        out_shardings=(whole, whole, placed),
    )
    width = -(-STREAMS // ways) * ways
    beginning = first_carry(run, width)

    def evaluate(
        params: Any, rows: Rows | TaskRows, limit: int = 0, unigram: np.ndarray | None = None, answers: Any = None
    ) -> dict[str, Any]:
        baseline = None if unigram is None else np.asarray(unigram, np.float32)
        totals: dict[str, float] = {}
        if labelled and answers is None:
            answers = judge.gathering(run.objective, rows.table)
        pending: list[tuple[np.ndarray, Any]] = []

        def fetch() -> None:  # added up in float64, in order
            for index, outputs in pending:
                found, made = jax.device_get(outputs) if answers else (jax.device_get(outputs[0]), None)
                for name, value in found.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                if answers:
                    answers.add(index, made)
            pending.clear()

        carry = trained.place(beginning)
        streaming = bool(jax.tree.leaves(carry))
        size = width if streaming else run.batch_size // run.microbatches
        own = processes.own_rows(trained.mesh, size)
        for record, index in (streams if streaming else batches)(rows, size, limit, own):
            *outputs, carry = compiled(params, trained.place(record, size), trained.place(index), baseline, carry)
            pending.append((index, outputs))
            if len(pending) == AHEAD:
                fetch()
        fetch()
        found = scores(totals, run)
        return found | judge.scores(run.objective, rows.table.examples, answers.found()) if labelled else found

    return evaluate


def _keys(row: jax.Array) -> jax.Array:
    return jax.vmap(lambda r: key(EVALUATION_SEED, "evaluation", r))(row)


def _training_rows(rows: Rows | TaskRows, size: int):
    """Yield (record, row indices) over an epoch, a mixture in its own shares, or UNIGRAM_ROWS rows of it."""
    if not rows.mixed:
        yield from batches(rows, size, UNIGRAM_ROWS)
        return
    mixed = dataclasses.replace(rows, batch_size=size, seed=EVALUATION_SEED)
    for step in range(-(-min(rows.count, UNIGRAM_ROWS) // size)):
        yield mixed.batch(step), np.arange(step * size, (step + 1) * size, dtype=np.int32)


def batches(rows: Rows | TaskRows, size: int, limit: int = 0, part: slice = slice(None)):
    """Yield (record, int32[size] row indices) over `rows` in order; the last batch is filled up with padding rows.

    `limit` rows are spread evenly over all: the first ones would be a few articles, and of a mixture one source. Records
    have a `part` of each batch's rows alone.
    """
    count = min(limit, rows.count) if limit else rows.count
    for start in range(0, count, size):
        index = np.arange(start, start + size)
        index = np.where(index < count, index * rows.count // count, rows.count)
        yield rows.pick(index[part], with_bytes=True), index.astype(np.int32)


def streams(rows: Rows, width: int, limit: int = 0, part: slice = slice(None)):
    """Yield (record, int32[width] row indices) of STREAMS contiguous streams through `rows`, or the first `limit`.

    Row b of a batch follows row b of the batch before it; rows beyond the streams, and beyond the end, are padding.
    Records have a `part` of each batch's rows alone.
    """
    count = min(limit, rows.count) if limit else rows.count
    steps = -(-count // STREAMS)
    first = np.arange(width) * steps
    for step in range(steps):
        index = np.where((np.arange(width) < STREAMS) & (first + step < count), first + step, rows.count)
        yield rows.pick(index[part], with_bytes=True), index.astype(np.int32)


def scores(totals: dict[str, float], run: Run) -> dict[str, Any]:
    """Return loss (nats a scored token or label), and where defined perplexity, accuracy, bits per byte, the baseline."""
    weight = max(totals["weight"], 1e-8)
    loss = totals["nll"] / weight
    result: dict[str, Any] = {"loss": loss}
    if run.arch.head == "vocabulary":
        result |= {"perplexity": math.exp(min(loss, 700.0)), "accuracy": totals["correct"] / weight}
    result["scored"] = int(totals["weight"])
    if totals.get("bytes"):
        result["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
    if "unigram" in totals:
        result["unigram_loss"] = totals["unigram"] / weight
    return result


def promised(run: Run) -> dict[str, Any]:
    """Return the scores that an evaluation of `run` would have, with values that mean nothing."""
    made = scores({"nll": 1.0, "correct": 1.0, "weight": 1.0, "bytes": float(run.objective.likelihood)}, run)
    return made if run.arch.head == "vocabulary" else made | judge.promised(run.objective)


def unigram_nll(run: Run, vocabulary: Vocabulary, rows: Rows | TaskRows, size: int) -> np.ndarray:
    """Return float64[size]: -log of each token's share among the targets of the training rows, add-one smoothed.

    Counted over what the objective really scores (sentinels included), so it is the best that a model which ignores
    its context can do: a loss below its cross-entropy means that context is used.
    """
    made = jax.jit(lambda record, row: examples(run, vocabulary, _keys(row), record)[1:])
    counts = np.ones(size, np.float64)
    for record, index in _training_rows(rows, 512):
        targets, weights = made({name: value for name, value in record.items() if name != "bytes"}, index)
        counts += np.bincount(np.ravel(targets), np.ravel(weights).astype(np.float64), minlength=size)[:size]
    return np.log(counts.sum()) - np.log(counts)
