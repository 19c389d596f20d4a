"""Tokens a second of whole training steps of BERT (mlm), GPT-2 (clm) and T5 (seq2seq), beside other programs in turns.

Command:  python -m experiments.bench [--objective mlm|clm|seq2seq] [--peer torch] [--json] [--dtype bfloat16] ...
Cost:     on two cores half a minute an objective, and as much again for a peer.
Result:   on two cores of an AMD EPYC, three rounds: mlm 7,838 tokens/s, 2.74 times transformers on PyTorch and 2.21 times
          its Flax models of before (4.57, by NAME=COMMAND); clm 7,023, 2.32 and 1.87 times, at 57 % of the roof (60 % in
          a run before, whose roof was lower); seq2seq 5,589, 1.91 and 2.19 times; mlm with a vocabulary of 30,522, in
          that run before, 6,679, 4.81 and 3.37 times (experiments/results/bench.jsonl, the runs one after the other).
Work:     16 rows of 256 tokens; 4 blocks (T5 4 + 4) of width 256, 4 heads, vocabulary 8,192. A step is the one that
          `research train` does: rows looked up, fresh corruption, forward, backward with dropout 0.1, clipping, AdamW.
          mlm scores 15 % of the positions, clm each, seq2seq 64 of a target for 256 of a source. A token is one that
          the encoder reads, or the decoder where there is no encoder. `memory` is the device's peak in these steps, of
          an objective that takes more than those before it in the same process; CPUs do not tell.
Peers:    torch and torch-compile are transformers' own models of the same activation and number of parameters, in a
          process of their own (experiments/bench_torch.py). Rounds alternate; `ratio` is that of the median seconds.
Limit:    FLOPs are counted from the step's graph (research/train/flops.py); the roof is the fastest of a few matrix
          products on this machine in the same rounds (experiments/roof.py). mfu is the share of what the device
          promises (research/train/peaks.py says who says so).

Prints a line of JSON for each objective, and a table unless told --json: then the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import peer, turns
from experiments.work import FAMILIES, Work, rows_of, run_of, vocabulary_of
from research.types import UserError

if TYPE_CHECKING:
    from research.config import Run
    from research.train.step import Trainer

DTYPES = ("float32", "bfloat16")
ROOF, OURS = "roof", "tercet"  # whose turns they are, beside the peers'
WARM_UP = 2  # updates, of which the first compiles


def main(arguments: list[str] | None = None) -> None:
    """Measure each objective and print it."""
    options = parse(arguments)
    if options.peer:  # a GPU is shared with them; JAX would take three quarters of its memory at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that peers are ended, too
    rows = []
    try:
        check_peers(options.peer)
        for objective in [options.objective] if options.objective else list(FAMILIES):
            row = measure(work_of(options, objective), options.peer, options.rounds, options.steps)
            print(json.dumps(row), flush=True)
            rows.append(row)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if not options.json:
        from research.commands.table import show

        show("", *table(rows))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--objective", choices=[*FAMILIES], help="one of them alone")
    parser.add_argument("--json", action="store_true", help="lines of JSON alone, without the table")
    known = ", ".join(peer.STACKS)
    parser.add_argument("--peer", nargs="+", default=[], help=f"{known}; or NAME=COMMAND that prints step_s as JSON")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each program")
    parser.add_argument("--steps", type=positive, default=5, help="timed updates in a turn")
    add_sizes(parser)
    return parser.parse_args(arguments)


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the fields of `Work`, its objective apart, as options."""
    plain = Work("mlm")
    for name in ("batch", "length", "vocabulary", "width", "layers", "heads"):
        parser.add_argument(f"--{name}", type=positive, default=getattr(plain, name), help=f"{getattr(plain, name):,}")
    parser.add_argument("--targets", type=positive, default=0, help="of a row of seq2seq; a quarter of --length")
    parser.add_argument("--dropout", type=float, default=plain.dropout, help=f"{plain.dropout}, on all sides")
    parser.add_argument("--dtype", choices=DTYPES, default=plain.dtype, help="of products, on all sides")
    parser.add_argument("--remat", action="store_true", help="compute blocks again in the backward pass, on all sides")


def positive(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def work_of(options: argparse.Namespace, objective: str) -> Work:
    """Return the work that the options name."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Work)}
    return Work(**{**fields, "objective": objective})


def check_peers(peers: list[str]) -> None:
    """Refuse peers that cannot be there, or cannot be told apart.

    Raises:
        UserError: As `peer.check`; or two have one name, or one has a name of ours.
    """
    names = [named.partition("=")[0] for named in peers]
    for named, name in zip(peers, names, strict=True):
        peer.check(named)
        if name in (ROOF, OURS) or names.count(name) > 1:
            raise UserError(f"--peer: {name} is the name of another: give NAME=COMMAND with a name of its own")


def settle(work: Work) -> None:
    """Set this process up as a session of training would."""
    from research.config import Mesh
    from research.train import heap
    from research.train.session import keep_compiled, keep_freed, memory_estimate
    from research.train.sharding import create_mesh

    heap.share()
    keep_compiled()
    keep_freed(memory_estimate(run_of(work), create_mesh(Mesh(data=1))))


def trainer_of(work: Work) -> tuple[Run, Trainer]:
    """Return the run of `work`, and the functions that it compiles for one device."""
    from research.config import Mesh
    from research.train.sharding import create_mesh
    from research.train.step import trainer

    run = run_of(work)
    return run, trainer(run, vocabulary_of(work), create_mesh(Mesh(data=1)))


class Ours(NamedTuple):
    """Our side."""

    device: str  # as JAX names it
    parameters: int
    targets: int  # scored in a step
    flops: int  # of a step
    steps: Callable[[int], list[float]]  # number of updates -> the seconds of each
    memory: int = 0  # bytes of the device at the peak of a step; 0: it does not tell, or took as much before


def peak_memory() -> int:
    """Return the bytes that the device held at most since the process began, 0 where it does not tell."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def ours(work: Work) -> Ours:
    """Return the real step of training on rows of random tokens, compiled and warm."""
    import jax

    from research.train import flops

    settle(work)
    before = peak_memory()
    run, made = trainer_of(work)
    rows = rows_of(work, run)
    state = made.initialize()
    done = 0

    def steps(count: int) -> list[float]:
        nonlocal state, done
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            state, found = made.update(state, made.place(rows.batch(done)))
            jax.block_until_ready((state, found))
            seconds.append(time.perf_counter() - started)
            done += 1
        return seconds

    operations = flops.per_step(made, rows.batch(0))
    steps(WARM_UP)
    peak = peak_memory()  # before the roof's matrices are there
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.parameters))
    scored = work.batch * run.objective.lengths(run.data.length).scored
    memory = peak if peak > before else 0
    return Ours(jax.devices()[0].device_kind, parameters, scored, operations, steps, memory)


def measure(work: Work, peers: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """Return what is printed of one objective.

    Raises:
        UserError: The work cannot be done, or a peer ended or does other work.
    """
    from experiments.roof import roof, shapes
    from research.train.progress import Progress

    names = [ROOF, OURS, *(named.partition("=")[0] for named in peers)]
    with contextlib.ExitStack() as stack, Progress(rounds * len(names), "turn", work.objective) as progress:
        progress.note(f"{work.objective}: compiling")
        mine = ours(work)
        import jax

        platform = jax.default_backend()
        device = "cuda" if platform == "gpu" else "cpu"
        sides = {}
        for named in peers:
            progress.note(f"{work.objective}: starting {named.partition('=')[0]}")
            sides[named.partition("=")[0]] = stack.enter_context(peer.peer(named, work, device))
        programs = {OURS: mine.steps} | {name: side.steps for name, side in sides.items()}
        taken = {ROOF: roof(shapes(work, platform != "cpu"), work.dtype)}
        taken |= {name: lambda program=program: program(steps) for name, program in programs.items()}
        found = turns.alternate(taken, rounds, progress.update)
    rate = max(found.pop(ROOF))  # other programs can only lower it: of a median the fraction would be flattered
    row = {**shape_of(work, mine), **against_roof(work, mine, [s for turn in found[OURS] for s in turn], rate)}
    if sides:
        row["peers"] = {
            name: {**sides[name].about, **against(work, mine, sides[name].about, found[OURS], found[name])}
            for name in sides
        }
    return row


def shape_of(work: Work, mine: Ours) -> dict[str, Any]:
    """Return what was done, and on what."""
    names = ("objective", "batch", "length", "vocabulary", "width", "layers", "heads", "dropout", "dtype", "remat")
    row = {name: getattr(work, name) for name in names}
    row |= {"targets": mine.targets, "parameters": mine.parameters, "device": mine.device}
    return row | ({"memory": mine.memory} if mine.memory else {})


def against_roof(work: Work, mine: Ours, seconds: list[float], rate: float) -> dict[str, Any]:
    """Return the figures of our side from the `seconds` of all updates, and of a roof of `rate` operations a second."""
    from research.train.peaks import peak_of

    done = mine.flops / statistics.median(seconds)
    row = {**speed(work, seconds), "flops": mine.flops, "roof": round(rate), "fraction": round(done / rate, 3)}
    if peak := peak_of(mine.device, work.dtype):
        row["mfu"] = round(done / peak, 3)
    return row


def against(
    work: Work, mine: Ours, about: dict[str, Any], seconds: list[list[float]], theirs: list[list[float]]
) -> dict[str, Any]:
    """Return the figures of a peer, and how many times as fast as it we are; `seconds` are of each update of each turn.

    Raises:
        UserError: It has another number of parameters: that would be other work.
    """
    if about.get("parameters", mine.parameters) != mine.parameters:
        raise UserError(f"a peer has {about['parameters']:,} parameters, and we have {mine.parameters:,}: other work")
    flat = [[second for turn in side for second in turn] for side in (seconds, theirs)]
    each = [turns.ratio(*pair) for pair in zip(seconds, theirs, strict=True)]
    return {
        **speed(work, flat[1]),
        "ratio": round(turns.ratio(*flat), 3),
        "ratio_spread": [round(min(each), 3), round(max(each), 3)],
    }


def speed(work: Work, seconds: list[float]) -> dict[str, Any]:
    """Return the median seconds of a step, the fastest and the slowest, and tokens a second."""
    median = statistics.median(seconds)
    return {
        "step_s": round(median, 5),
        "spread": [round(min(seconds), 5), round(max(seconds), 5)],
        "tokens_per_s": round(work.batch * work.length / median),
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of what was measured."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("peers", {})))
    mfu = any("mfu" in row for row in rows)
    header = ["objective", "tokens/s", "step", "spread", "GFLOP/step", "GFLOP/s", "roof GFLOP/s", "of the roof"]
    header += ["mfu"] * mfu + [f"{name} tokens/s, ours over it" for name in names]
    lines = []
    for row in rows:
        low, high = row["spread"]
        line = [row["objective"], f"{row['tokens_per_s']:,}", f"{row['step_s']:.4g} s", f"{low:.4g} - {high:.4g}"]
        line += [f"{row['flops'] / 1e9:,.1f}", f"{row['flops'] / row['step_s'] / 1e9:,.1f}"]
        line += [f"{row['roof'] / 1e9:,.1f}", f"{row['fraction']:.0%}"]
        line += [f"{row['mfu']:.0%}" if "mfu" in row else "-"] * mfu
        for name in names:
            side = row["peers"][name]
            low, high = side["ratio_spread"]
            line.append(f"{side['tokens_per_s']:,}, {side['ratio']:.2f} ({low:.2f} - {high:.2f})")
        lines.append(line)
    return header, lines


if __name__ == "__main__":
    main()
