"""Where the time of a training step goes: the profiler's time of every operation, by the part of the model it is of.

Command:  python -m experiments.bench_parts [--objective clm] [--dtype bfloat16] [--vocabulary 30522] ...
Cost:     on two cores half a minute.
Result:   on two cores of an AMD EPYC: of clm 37 % are the loss and the vocabulary, 31 % other products of parameters,
          22 % attention between these; of seq2seq 8, 41 and 31 % (experiments/results/bench_parts.jsonl).
Work:     that of experiments/bench.py; --objective and the sizes are the same.
Limit:    An operation that XLA made of several is of the part of its last one: a bias belongs to what it is added for, a
          forward activation that the backward pass computes again to where that happens. Operations run side by side,
          so they add up to more than the step, whose seconds stand beside; shares are of the sum.

Prints a table, or with --json a line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from experiments.bench import add_sizes, settle, trainer_of, work_of
from experiments.work import FAMILIES, Work, rows_of
from research.types import UserError

STEPS = 4
# The first that matches an operation's path of modules is its part.
PARTS: tuple[tuple[str, str], ...] = (
    ("loss and vocabulary", r"jvp\(\)"),
    ("attention: projections", r"_attention/.*(query|key|value|out)/.*(dot_general|add|reduce_sum|transpose|convert)"),
    ("attention: dropout", r"_attention/dropout"),
    ("attention: scores and sums", r"_attention/bhts|_attention/bthd"),
    ("attention: heads moved", r"_attention/.*(reshape|transpose)$"),
    ("attention: softmax and masks", r"_attention/"),
    ("feed-forward: products", r"/mlp/.*dot_general"),
    ("feed-forward: activation", r"/mlp/"),
    ("norms", r"norm/"),
    ("dropout", r"[dD]ropout"),
    ("embeddings, positions", r"/(tokens|positions|relative|types|take)|gather|scatter"),
    ("rest of the model", r"Transformer"),
    ("corruption", r"vmap"),
    ("clipping and update", r"jit\(update\)"),
)
HOLDERS = ("while", "call", "conditional")  # of other operations, whose time they repeat


def main() -> None:
    """Profile one objective, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--objective", choices=[*FAMILIES], help="one of them alone")
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of tables")
    add_sizes(parser)
    options = parser.parse_args()
    try:
        for objective in [options.objective] if options.objective else FAMILIES:
            work = work_of(options, objective)
            seconds, parts = profile(work)
            if options.json:
                print(json.dumps({"objective": objective, "step_s": round(seconds, 5), "parts": parts}), flush=True)
                continue
            from research.commands.table import show

            show(f"{objective}, {work.dtype}: a step of {seconds:.4g} s", *table(parts))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def profile(work: Work) -> tuple[float, dict[str, dict[str, float]]]:
    """Return the seconds of a step without the profiler, and with it those of every part, forward and backward."""
    import jax

    settle(work)
    run, made = trainer_of(work)
    state = made.initialize()
    record = made.place(rows_of(work, run).batch(0))
    update = made.update.lower(state, record).compile()  # the very program whose text is read below

    def steps(count: int) -> float:
        nonlocal state
        started = time.perf_counter()
        for _ in range(count):
            state, found = update(state, record)
            jax.block_until_ready((state, found))
        return (time.perf_counter() - started) / count

    steps(2)
    seconds = steps(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps(STEPS)
        [file] = pathlib.Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return seconds, by_part(events, operations(update.as_text()), STEPS)


def operations(text: str) -> dict[str, tuple[str, str]]:
    """Return the kind and the path of modules of every operation of a compiled program, by its name."""
    pattern = r"\s*(?:ROOT )?%?([\w.-]+) = .*? ([\w-]+)\("
    found = {}
    for line in text.splitlines():
        if match := re.match(pattern, line):
            path = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = (match[2], path[1] if path else "")
    return found


def by_part(
    events: Iterable[dict[str, Any]], known: dict[str, tuple[str, str]], steps: int
) -> dict[str, dict[str, float]]:
    """Return the seconds a step of each part, the longest first."""
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for event in events:
        kind, path = known.get(event.get("args", {}).get("hlo_op", ""), ("call", ""))
        if kind not in HOLDERS and not kind.endswith(("-start", "-done")):
            sums[part_of(path)]["backward" if "transpose(" in path else "forward"] += event["dur"] / 1e6 / steps
    ordered = sorted(sums.items(), key=lambda item: -item[1].total())
    return {name: {way: round(found[way], 5) for way in ("forward", "backward")} for name, found in ordered}


def part_of(path: str) -> str:
    """Return the part that an operation with this path of modules is of."""
    return next((name for name, pattern in PARTS if re.search(pattern, path)), "copies and what has no name")


def table(parts: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the table."""
    total = sum(sum(ways.values()) for ways in parts.values())
    lines = [
        [name, *(f"{1000 * ways[way]:.1f} ms" for way in ("forward", "backward")), f"{sum(ways.values()) / total:.1%}"]
        for name, ways in parts.items()
    ]
    return ["part", "forward", "backward", "share"], [*lines, ["sum", "", f"{1000 * total:.0f} ms", ""]]


if __name__ == "__main__":
    main()
