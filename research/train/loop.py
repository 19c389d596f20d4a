"""The loop: batches in, metrics and checkpoints out; it holds no state but what a checkpoint holds."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from research.config import Run, averages, differences, from_json, is_task, to_json
from research.data.tokenizer import save as save_tokenizer
from research.models.ngram import Ngram
from research.report import logs
from research.tasks import summary
from research.train import adapter, counting, flops, heap, metrics, origin, processes
from research.train.checkpoint import Checkpoints
from research.train.evaluate import UNIGRAM, promised
from research.train.lock import alone
from research.train.progress import Progress
from research.train.session import Session, baseline, batch_of, notes, open_session, rows_of
from research.types import Diverged, State, UserError

Status = Literal["new", "unfinished", "done"]


def train(run: Run, folder: pathlib.Path, *, allow_changes: bool = False) -> Literal["done", "interrupted"]:
    """Train `run` in `folder`, from its newest good checkpoint if it has one, until done or interrupted.

    Args:
        run: What to train.
        folder: Holds run.json, metrics.jsonl, tokenizer/ and checkpoints/.
        allow_changes: Go on in a folder of another configuration.

    Returns:
        "interrupted" after SIGINT or SIGTERM, with everything saved: the same call goes on.

    Raises:
        UserError: The configuration cannot work or differs from the folder's; a checkpoint is damaged beyond use; or
            another process trains in the folder.
        Diverged: A loss is not finite: stopped before the update that it would have made is applied or saved.
    """
    heap.share()
    configuration = processes.agreed("configuration", lambda: to_json(run))
    if not processes.first() and (changed := differences(from_json(configuration), run)):
        raise UserError(f"process 0 was given another configuration ({'; '.join(changed)}): give all processes the same")
    processes.check_shared(folder)
    resolved, old_fingerprint, done = processes.agreed("recorded", lambda: _recorded(run, folder, allow_changes))
    if done:
        print(f"{folder} is done: {logs.read(folder)[-1]['step']} steps")
        return "done"
    if isinstance(run.arch, Ngram):
        if jax.process_count() > 1:
            raise UserError("an n-gram model is counted in one process: start it alone")
        counting.train(run, folder)
        return "done"
    session = open_session(run, resolved and from_json(resolved))
    cost_of(session.run, promised(session.run))  # a best_by that is not among them, before hours are spent
    if is_task(run):
        print(*summary.told(session.prepared), sep="\n")
    fingerprint = session.prepared.fingerprint
    if old_fingerprint not in (None, fingerprint) and not allow_changes:
        raise UserError(
            f"{folder} was trained on other text or tokens (fingerprint {old_fingerprint}, now {fingerprint}): restore "
            "the data, choose another --out, or go on with --allow-changes"
        )
    with contextlib.ExitStack() as opened:
        folder.mkdir(parents=True, exist_ok=True)
        opened.enter_context(alone(folder, "another train"))
        log = opened.enter_context(metrics.Metrics(folder, session.run.tensorboard)) if processes.first() else None
        checkpoints = opened.enter_context(Checkpoints(folder / "checkpoints", session.run.keep))
        if resolved is None and checkpoints.exist():
            raise UserError(f"{folder} was trained in meanwhile: give the command again, or choose another --out")
        state, start = _first_state(session, checkpoints)
        if start > session.run.steps:
            raise UserError(f"{folder} stands at step {start}, beyond steps {session.run.steps}: raise steps")
        checkpoints.cut(start)
        if log:
            log.cut(start if start else -1)
            if not start or allow_changes:
                (folder / UNIGRAM).unlink(missing_ok=True)
            if start < session.run.steps or allow_changes:
                metrics.drop_scores(folder)
            _describe(run, session, folder, start)
        if session.run.adapter.method != "full":
            print(adapter.summary(session.run, session.trainer.parameters, session.trainer.shapes))
        for note in notes(session):
            print(f"note: {note}")
        with processes.in_turn("baseline"):
            unigram = baseline(session, folder)
        elapsed, costs = processes.agreed("logged", lambda: _logged(session.run, folder))
        return _steps(session, state, start, log, checkpoints, unigram, elapsed, costs)


def _describe(run: Run, session: Session, folder: pathlib.Path, start: int) -> None:
    """Write the tokenizer and the run.json of `run`, which begins at step `start`, into its folder."""
    prepared = session.prepared
    save_tokenizer(prepared.tokenizer, folder / "tokenizer")
    metrics.describe(
        folder,
        to_json(run),
        step=start,
        mesh=dict(session.trainer.mesh.shape),
        fingerprints={"data": prepared.fingerprint, "tokenizer": prepared.tokenizer_fingerprint, **prepared.parts},
        resolved=to_json(session.run),
        parameters=sum(x.size for x in jax.tree.leaves(session.trainer.parameters)),
        trainable=sum(x.size for x in jax.tree.leaves(session.trainer.shapes.trainable)),
        flops_per_step=flops.per_step(session.trainer, session.training.batch(0)),
        memory=session.estimate.parts,
        padding=padding(run),
    )


def _logged(run: Run, folder: pathlib.Path) -> tuple[float, list[float]]:
    """Return the seconds that `run` has taken so far and the costs of its evaluations: all that it carries over."""
    rows = logs.read(folder)
    costs = [cost_of(run, row) for row in rows if row["kind"] == "evaluation"]
    return rows[-1]["elapsed"] if rows else 0.0, costs


def padding(run: Run) -> float:
    """Return the share of an example's positions that the objective leaves as padding in a full row."""
    return run.objective.padding(run.data.length) if hasattr(run.objective, "padding") else 0.0


def status(folder: pathlib.Path) -> Status:
    """Return how far the run in `folder` has come: new (nothing there), unfinished, or done (its end is logged)."""
    if not (folder / logs.RUN).exists():
        return "new"
    rows = logs.read(folder) if (folder / logs.ROWS).exists() else []
    return "done" if rows and rows[-1].get("kind") == "end" else "unfinished"


def _recorded(run: Run, folder: pathlib.Path, allow_changes: bool) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Return the resolved run, as JSON, and the data fingerprint that `folder` records, and whether it is done."""
    if not (folder / logs.RUN).exists():
        return None, None, False
    record = logs.read_trained(folder, "choose another --out")
    changed = differences(from_json(record["configuration"]), run)
    if changed and not allow_changes:
        raise UserError(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): choose another --out, or go on "
            "with --allow-changes"
        )
    resolved = record["resolved"]
    if any(line.startswith("minutes:") for line in changed):  # its steps are not those of the new limit
        resolved = {**resolved, "steps": 0}
    return resolved, record["fingerprints"]["data"], not allow_changes and status(folder) == "done"


def _first_state(session: Session, checkpoints: Checkpoints) -> tuple[State, int]:
    """Return the newest good checkpoint's state, or a fresh one, and its step."""
    if not checkpoints.exist():
        shardings = jax.tree.map(lambda x: x.sharding, session.trainer.parameters)
        given, fresh = origin.parameters(session.run, shardings)
        if given:
            print(f"starting from {session.run.init.path}" + (f"; fresh: {', '.join(fresh)}" if fresh else ""))
        return session.trainer.initialize(given), 0
    state, notes = checkpoints.restore(session.trainer.shapes)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return state, int(state.step)


def _steps(
    session: Session,
    state: State,
    start: int,
    log: metrics.Metrics | None,
    checkpoints: Checkpoints,
    unigram: np.ndarray | None,
    elapsed: float,
    costs: list[float],
) -> Literal["done", "interrupted"]:
    """Run the steps from `start`; a row of a step is always written before the checkpoint of that step.

    Of several processes all go through the same steps, and what they may see differently (signals, costs) they ask of
    process 0, which alone has a `log`.
    """
    run, update = session.run, session.trainer.update
    tokens_a_step = run.batch_size * run.data.length
    began = time.perf_counter() - elapsed
    validation = rows_of(run, session.prepared, "validation")
    stop = processes.Stop()

    def write(kind: str, step: int, values: dict[str, Any]) -> None:
        place_in_time = {"tokens": step * tokens_a_step, "elapsed": time.perf_counter() - began}
        if log:
            log.write({"kind": kind, "step": step, **place_in_time, **values})

    def evaluate(state: State, step: int) -> float:
        params = session.trainer.merge(state.averages if averages(run) else state.trainable, state.frozen)
        scores = session.evaluate(params, validation, run.evaluate_rows, unigram)
        short = {name: value for name, value in scores.items() if name != "confusion"}
        write("evaluation", step, {"split": "validation", **short})
        progress.note(f"step {step}: validation {in_short(scores, run.best_by)}")
        costs.append(processes.agreed("cost", lambda: cost_of(run, scores)))
        return costs[-1]

    def checked(step: int, found: dict[str, Any]) -> dict[str, Any]:
        found = jax.device_get(found)
        if not found["finite"]:
            checkpoints.wait()  # here in every process: a save that all write is not to end with one of them
            processes.fail_together(Diverged(_not_finite(session, step, found, checkpoints)))
        return found

    with Progress(run.steps, "step", run.name) as progress, _interruptible() as interrupted:
        if start == 0:
            evaluate(state, 0)
        clock, timed = None, start
        last = start if out_of_patience(costs, run.patience) else run.steps  # killed between its last save and its end
        for step in range(start, last):
            state, found = update(state, batch_of(run, session.trainer, session.training, step))
            done = step + 1
            logging = done % run.log_every == 0 or done == run.steps
            evaluating = done == run.steps or bool(run.evaluate_every and done % run.evaluate_every == 0)
            stopping = stop(done, interrupted())
            saving = done == run.steps or stopping or bool(run.save_every and done % run.save_every == 0)
            ending = done == run.steps
            if step > start:
                checked(step - 1, before)  # one step late, so that the device is never waited for
            before = found
            if clock is None:
                jax.block_until_ready(found)
                clock, timed = time.perf_counter(), done  # the first step compiles: it is not timed
            if not (logging or evaluating or saving):
                continue
            values = checked(step, found)
            seconds = time.perf_counter() - clock
            if logging:
                values = {k: float(v) for k, v in values.items() if k != "finite"}
                rate = (done - timed) * tokens_a_step / seconds if done > timed else None
                write("train", done, {**values, "tokens_per_s": rate, "seconds": seconds})
                progress.update(done, tokens=done * tokens_a_step, loss=values["loss"], tokens_per_s=rate)
            cost = evaluate(state, done) if evaluating else None
            saving |= evaluating and run.patience > 0 and costs.index(min(costs)) == len(costs) - 1  # or it would be lost
            if evaluating and not ending and out_of_patience(costs, run.patience):
                progress.note(f"no better {run.best_by} in {run.patience} evaluations: ending after step {done}")
                ending = True
            if saving or ending:
                checkpoints.save(done, state, cost)
            if ending:
                checkpoints.wait()
                write("end", done, {})
                return "done"
            if stopping:
                checkpoints.wait()
                progress.note(f"stopped after step {done} of {run.steps}, all saved: the same command goes on")
                return "interrupted"
            clock, timed = time.perf_counter(), done
        checkpoints.wait()  # here only if there was no step left to run
        write("end", start, {})
    return "done"


LOW = ("loss", "perplexity", "bits_per_byte", "mean_squared_error", "mean_absolute_error", "ece")  # best where lowest
NOT_THE_MODELS = ("elapsed", "unigram_loss", "majority")  # what it is compared with


def cost_of(run: Run, scores: dict[str, Any]) -> float:
    """Return what the best evaluation has least of: its loss, or -1 times a score that is best where it is highest.

    A score that is not defined this time (the correlation of a constant) is the worst.

    Raises:
        UserError: `best_by` names no score of the evaluation.
    """
    known = [name for name, value in scores.items() if isinstance(value, float) and name not in NOT_THE_MODELS]
    if run.best_by not in known and not (run.best_by in scores and scores[run.best_by] is None):
        raise UserError(f"best_by is {run.best_by}, but evaluations have {', '.join(known)}: choose one of them")
    value = scores[run.best_by]
    return math.inf if value is None or math.isnan(value) else value if run.best_by in LOW else -value


def out_of_patience(costs: list[float], patience: int) -> bool:
    """Return whether the best of the evaluations' `costs`, in their order, is `patience` evaluations old."""
    return bool(patience) and len(costs) - 1 - min(range(len(costs)), key=costs.__getitem__) >= patience


def in_short(scores: dict[str, Any], best_by: str) -> str:
    """Return the scores that a line of progress has room for."""
    shown = {"loss": "loss", "unigram_loss": "unigram", best_by: best_by}
    return ", ".join(f"{label} {scores[name]:.4f}" for name, label in shown.items() if name in scores)


def _not_finite(session: Session, step: int, found: dict[str, Any], checkpoints: Checkpoints) -> str:
    """Return the message of a loss that is not a number: which step, rows and seed, and what to do."""
    places = session.training.locate(step)
    rows = ", ".join(f"{place.source}:{place.row}" for place in places)
    kept = checkpoints.latest()
    return (
        f"step {step + 1}: loss {found['loss']}, gradient norm {found['gradient_norm']} (seed {session.run.seed}, rows "
        f"source:row {rows}): not applied and not saved; the last checkpoint is "
        f"{'none' if kept is None else f'of step {kept}'}; lower optimizer.learning_rate or look at these rows"
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM has come; a second one ends the process at once."""
    came: list[int] = []

    def handler(number: int, _: Any) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        print("stopping after this step and saving; once more stops at once", file=sys.stderr)

    try:
        old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may set handlers
        old = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
