"""What training costs around its step: the loop, the rows, the start, the vocabulary; and evaluation and generation.

Command:  python -m experiments.bench_loop [overhead] [loader] [start] [memory] [use] [--objective clm] [--rounds 3] ...
Cost:     on two cores 15 minutes in all: `overhead` a minute and a half a round, `start` 4 minutes, the others less.
Parts:    overhead: the real `train`, with its log, progress and asynchronous checkpoints (a row every 10 steps, a
          checkpoint every 20), over its own bare step on rows that are there already. The aim is at most 1.02.
          loader: assembly of batches from a memory-mapped corpus. The aim is 10 million tokens a second.
          start: seconds from the command line to the first logged step of the demo's models: `first` with nothing kept,
          `cold` with the text prepared and no compiled program, `warm` with both. The aim is 10 s.
          memory: bytes that XLA reserves for a causal step at a vocabulary of 50,257 over those at 8,192, apart from
          the table with its gradient and both moments. The aim is at most 1.15.
          use: evaluation and greedy generation over training, in tokens a second: those made, or with seq2seq those
          read, which is what its training counts. The aim is 1 or better.
Result:   on two cores of an AMD EPYC, others beside it: overhead 0.97 in one run and 1.06 in another, whose rounds gave
          1.01 to 1.13: two hundredths are less than that machine tells apart; 168 million tokens a second; warm 6.5 to
          8.2 s; memory 1.05; evaluation 3.0 to 3.4 times training; generation 0.92 times with 16 rows, 1.06 with 32 and
          1.15 with 64, of seq2seq 1.83 with 16 (experiments/results/bench_loop.jsonl, speed.md).
Source:   pydocs, the text of this Python's own documentation; `memory` and `use` take random tokens. The model and the
          batch are those of experiments/bench.py.

Prints a line of JSON for each part.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments import turns
from experiments.bench import DTYPES, ours, positive, trainer_of
from experiments.work import FAMILIES, Work, rows_of, run_of, vocabulary_of
from research.types import UserError

LOGGED, SAVED, STEPS = 10, 20, 50  # steps between rows and between checkpoints, and in all; the first row begins
BATCHES = 512  # that the loader assembles
DEMO = ("mlm_pydocs", "clm_pydocs", "span_pydocs")
SMALL, LARGE = 8192, 50257  # vocabularies whose memory is compared
TABLES = 4  # of float32[V, D]: the embedding, its gradient and its two moments
EVALUATED, PROMPT = 8, 32  # batches of an evaluation, tokens of a prompt
PART = Callable[[Work, int], Iterator[dict[str, Any]]]


def main() -> None:
    """Measure the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--objective", choices=[*FAMILIES], default="clm", help="of overhead, loader and use")
    parser.add_argument("--batch", type=positive, default=Work("clm").batch, help="rows of a step")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of products")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each")
    options = parser.parse_args()
    work = Work(options.objective, batch=options.batch, dtype=options.dtype)
    try:
        for name in options.parts or PARTS:
            if name not in PARTS:
                raise UserError(f"there is no part {name}: choose among {', '.join(PARTS)}")
            for row in PARTS[name](work, options.rounds):
                print(json.dumps({"part": name, **row}), flush=True)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def real_run(work: Work, steps: int):
    """Return the run of `work` that reads pydocs, logs and saves."""
    from experiments.pydocs import data
    from research.config import Mesh
    from research.data.tokenizer import Tokenizer

    run = run_of(work)
    return dataclasses.replace(
        run,
        data=data(length=run.data.length, tokenizer=Tokenizer(kind="bpe", size=work.vocabulary)),
        mesh=Mesh(data=1),  # one device, as experiments/bench.py
        steps=steps,
        log_every=LOGGED,
        save_every=SAVED,
        evaluate_rows=work.batch,
    )


def overhead(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a step in the loop over those of the bare step."""
    import jax

    from research.report import logs
    from research.train.loop import train
    from research.train.session import open_session

    run = real_run(work, STEPS)
    session = open_session(run)
    record = session.trainer.place(session.training.batch(0))
    state = session.trainer.initialize()

    def bare() -> float:
        nonlocal state
        for step in range(STEPS):
            if step == LOGGED:
                jax.block_until_ready(state)
                started = time.perf_counter()
            state, _ = session.trainer.update(state, record)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / (STEPS - LOGGED)

    def looped() -> float:
        with tempfile.TemporaryDirectory() as name:
            if train(run, pathlib.Path(name) / "run") == "interrupted":
                raise KeyboardInterrupt
            rows = [row for row in logs.read(pathlib.Path(name) / "run") if row["kind"] == "train"]
        return (rows[-1]["elapsed"] - rows[0]["elapsed"]) / (rows[-1]["step"] - rows[0]["step"])

    bare()
    found = turns.alternate({"bare": bare, "loop": looped}, rounds)
    ratios = [loop / step for step, loop in zip(found["bare"], found["loop"], strict=True)]
    yield {
        "objective": work.objective,
        "step_s": {name: round(statistics.median(each), 5) for name, each in found.items()},
        "spread": {name: turns.spread(each) for name, each in found.items()},
        "ratio": round(turns.ratio(found["bare"], found["loop"]), 4),
        "ratio_spread": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def loader(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the tokens a second that are assembled into batches."""
    from research.train.session import open_session

    session = open_session(real_run(work, STEPS))
    shape = session.training.batch(0)["tokens"].shape
    steps = itertools.count()

    def assemble() -> None:
        for _ in range(BATCHES):
            session.training.batch(next(steps))

    seconds = [turns.seconds(assemble) for _ in range(rounds)]
    yield {
        "tokens_per_s": round(BATCHES * math.prod(shape) / statistics.median(seconds)),
        "spread": turns.spread(seconds),
        "shape": shape,
    }


def start(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the seconds to the first step of each of the demo's models."""
    for name in DEMO:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            kept = {**os.environ, "TERCET_CACHE": str(place / "cache")}
            kept.pop("JAX_COMPILATION_CACHE_DIR", None)
            emptied = kept | {"JAX_COMPILATION_CACHE_DIR": str(place / "compiled")}
            row = {
                case: round(first_step(name, place / case, environment), 2)
                for case, environment in (("first", kept), ("cold", emptied), ("warm", emptied))
            }
        yield {"experiment": name, **{f"{case}_s": seconds for case, seconds in row.items()}}


def first_step(experiment: str, folder: pathlib.Path, environment: dict[str, str]) -> float:
    """Return the seconds from starting `train` in a new process to its first logged step.

    Raises:
        UserError: It ended before.
    """
    from research.report import logs

    file = pathlib.Path(__file__).parent / f"{experiment}.py"
    arguments = ["train", str(file), "--steps", "1", "--log-every", "1", "--out", str(folder)]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "research", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            while True:
                ended = process.poll()
                if (folder / logs.ROWS).exists() and any(row["kind"] == "train" for row in logs.read(folder)):
                    seconds = time.perf_counter() - started
                    process.wait()
                    return seconds
                if ended is not None:
                    said.seek(0)
                    raise UserError(f"{experiment} took no step: {said.read().decode(errors='replace').strip()[-300:]}")
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()


def memory(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the bytes that a causal step takes at both vocabularies."""
    work = dataclasses.replace(work, objective="clm")
    sizes = [dataclasses.replace(work, vocabulary=size) for size in (SMALL, LARGE)]
    whole = [reserved(each) for each in sizes]
    apart = [size - tables(each) for size, each in zip(whole, sizes, strict=True)]
    yield {
        "vocabulary": [SMALL, LARGE],
        "bytes": whole,
        "apart_from_the_table": apart,
        "ratio": round(apart[1] / apart[0], 3),
    }


def reserved(work: Work, compiler_options: dict[str, Any] | None = None) -> int:
    """Return the bytes that XLA reserves for one update: its arguments, and all that it needs while it runs."""
    import jax

    run, made = trainer_of(work)
    record = rows_of(work, run).batch(0)
    described = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in record.items()}
    found = made.update.lower(made.shapes, described).compile(compiler_options).memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes


def tables(work: Work) -> int:
    """Return the bytes of the embedding, its gradient and its moments."""
    return TABLES * 4 * work.vocabulary * work.width


def use(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the tokens a second of training, evaluating and, where the model writes, generating."""
    from research.generate.decoding import Prompt, generate
    from research.generate.settings import Decoding
    from research.train.evaluate import evaluator

    training = ours(work)
    run, made = trainer_of(work)
    rows = rows_of(work, run)
    state = made.initialize()
    params = made.merge(state.trainable, state.frozen)
    evaluate = evaluator(run, vocabulary_of(work), made)
    lengths = run.objective.lengths(run.data.length)
    made_tokens = lengths.target if work.objective == "seq2seq" else work.length - PROMPT
    texts = rows.take(0, work.batch)["tokens"]
    prompts = [Prompt((0,), tuple(text)) for text in texts[:, : work.length].tolist()]
    if work.objective == "clm":
        prompts = [Prompt(tuple(text)) for text in texts[:, :PROMPT].tolist()]

    def timed(make: Callable[[], Any], tokens: int) -> Callable[[], float]:
        make()  # compiles
        return lambda: turns.seconds(make) / tokens

    count = EVALUATED * work.batch
    decoding = Decoding(max_new_tokens=made_tokens, min_new_tokens=made_tokens)
    taken = {
        "training": lambda: statistics.median(training.steps(4)) / (work.batch * work.length),
        "evaluation": timed(lambda: evaluate(params, rows, count), count * work.length),
    }
    if work.objective != "mlm":
        write = lambda: generate(made.model, params, prompts, decoding, batch_size=work.batch)  # noqa: E731
        counted = work.length if work.objective == "seq2seq" else made_tokens  # a row's inputs, as in training; what is made
        taken["generation"] = timed(write, work.batch * counted)
    found = turns.alternate(taken, rounds)
    yield {
        "objective": work.objective,
        "batch": work.batch,
        "tokens_per_s": {name: round(1 / statistics.median(each)) for name, each in found.items()},
        "spread": {name: turns.spread(each) for name, each in found.items()},
        "over_training": {
            name: round(turns.ratio(each, found["training"]), 2) for name, each in found.items() if name != "training"
        },
    }


PARTS: dict[str, PART] = {"overhead": overhead, "loader": loader, "start": start, "memory": memory, "use": use}

if __name__ == "__main__":
    main()
