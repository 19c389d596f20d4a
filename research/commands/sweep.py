"""`sweep EXPERIMENT --seed 0 1 2 --optimizer.learning-rate 1e-3 3e-4`: one run for every combination of the values.

Each run is a process of its own, the very `train` command that it prints: a run that crashes (or is killed for memory)
loses nothing of the others, and its memory is the system's again. That costs about three seconds of start a run.
"""

from __future__ import annotations

import hashlib
import itertools
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from research.commands import overrides
from research.commands.arguments import check_writable, take
from research.commands.overrides import Override
from research.commands.table import show
from research.commands.train import INTERRUPTED, experiment_of
from research.types import UserError

USAGE = "usage: python -m research sweep EXPERIMENT --FIELD VALUE [VALUE ...] [--FIELD ...] [--out FOLDER]"

DESCRIPTION = """Train {experiment} once for every combination of the values given, one after another; any field may
take several, as in --seed 0 1 2. --out FOLDER: where the runs are kept, a folder each, runs/{name}-sweep if not given.
The same command again skips what is done and goes on with what is not. Every field of the experiment:"""


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder: the fields that differ
    run: Any  # research.config.Run
    overrides: list[Override]


def main(arguments: list[str]) -> int:
    """Run the sweep; return 0 when all runs are done, 1 when any failed, 75 when interrupted (and resumable)."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        print("python -m research sweep EXPERIMENT --help shows every field of the experiment.")
        return 0
    experiment, rest = experiment_of(arguments, USAGE)

    from research.config import load_experiment

    run = load_experiment(experiment)
    if "-h" in rest or "--help" in rest:
        overrides.show_help(run, f"sweep {experiment}", DESCRIPTION.format(experiment=experiment, name=run.name))
        return 0
    out, rest = take(rest, "--out")
    out = pathlib.Path(out or f"runs/{run.name}-sweep")
    members = product(run, overrides.split(run, rest))
    check_writable(out)
    state = {member.name: _status(out / member.name, member.run) for member in members}
    for number, member in enumerate(members, 1):
        if state[member.name] == "done":
            print(f"[{number}/{len(members)}] {member.name}: done before")
            continue
        words = [word for override in member.overrides for word in override.arguments]
        command = [experiment, *words, "--out", str(out / member.name)]
        print(f"[{number}/{len(members)}] {member.name}: python -m research train {shlex.join(command)}", flush=True)
        status, interrupted = launch([sys.executable, "-m", "research", "train", *command])
        state[member.name] = {0: "done", INTERRUPTED: "interrupted"}.get(status, f"failed ({status})")
        if interrupted or status == INTERRUPTED:
            state[member.name] = "done" if status == 0 else "interrupted"
            break
    report(out, members, state)
    if "interrupted" in state.values():
        print("interrupted: the same command goes on")
        return INTERRUPTED
    return 0 if all(s == "done" for s in state.values()) else 1


def product(run: Any, given: list[Override]) -> list[Member]:
    """Return a member for every combination of the values in `given`, the last field varying fastest.

    Raises:
        UserError: A value is of the wrong type or given twice, or a combination cannot work; nothing has started yet.
    """
    from research.config import check

    options = [overrides.choices(run, override) for override in given]
    differing = {several[0].path for several in options if len(several) > 1}
    members: dict[str, Member] = {}
    for combination in itertools.product(*options):
        changed = overrides.apply(run, combination)
        name = _name([(o.path, overrides.fields(changed)[o.path].default) for o in combination if o.path in differing])
        name = name or safe(run.name)
        if name in members:
            raise UserError(f"two runs of the sweep are the same ({name}): give each value once")
        try:
            check(changed)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        members[name] = Member(name, changed, list(combination))
    return list(members.values())


def _name(differing: list[tuple[str, Any]]) -> str:
    """Return 'seed=0_learning-rate=0.001': values as parsed, so that 1e-3 and 0.001 are one run."""
    last = [path.rpartition(".")[2] for path, _ in differing]
    short = [end if last.count(end) == 1 else path for end, (path, _) in zip(last, differing, strict=True)]
    return "_".join(
        f"{name.replace('_', '-')}={safe(str(value))}" for name, (_, value) in zip(short, differing, strict=True)
    )


def safe(text: str) -> str:
    """Return `text` as part of a folder's name; where that changes it, a hash keeps different texts apart."""
    kept = re.sub(r"[^A-Za-z0-9.+-]+", "-", text)[:40].strip(".-")
    return kept if kept == text else f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")


def _status(folder: pathlib.Path, run: Any) -> str:
    """Return 'new', 'unfinished' or 'done'.

    Raises:
        UserError: The folder holds a run of another configuration.
    """
    from research.config import differences, from_json
    from research.report.logs import RUN, read_trained
    from research.train.loop import status

    if (folder / RUN).exists():
        changed = differences(from_json(read_trained(folder, "choose another --out")["configuration"]), run)
        if changed:
            what = "; ".join(changed)
            raise UserError(f"{folder} holds a run of another configuration ({what}): choose another --out")
    return status(folder)


def launch(command: list[str]) -> tuple[int, bool]:
    """Run `command` and return (its exit status, whether this process was told to stop meanwhile).

    The child leads a session of its own and every signal is passed on to it: Ctrl-C reaches it once, not twice (the
    second means: stop without saving), and a `kill` of the sweep alone reaches it at all.
    """
    told = False
    child: subprocess.Popen | None = None

    def pass_on(number: int, _: object) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)  # a closed terminal saves too

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, pass_on) for number in signals]
    try:
        child = subprocess.Popen(command, start_new_session=True)
        if told:  # between the handler's installation and the child's birth
            child.send_signal(signal.SIGTERM)
        return child.wait(), told
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def report(out: pathlib.Path, members: list[Member], state: dict[str, str]) -> None:
    """Print a table of the runs with their last validation losses, the best first."""
    from research.report.logs import read

    rows = []
    for member in members:
        losses = []
        if state[member.name] != "new":
            try:
                losses = [row["loss"] for row in read(out / member.name) if row.get("kind") == "evaluation"]
            except UserError:
                pass  # it failed before its first row
        status = state[member.name].replace("new", "not started")
        rows.append((losses[-1] if losses and losses[-1] is not None else float("inf"), member.name, status))
    cells = [(name, status, f"{loss:.4f}" if loss < float("inf") else "-") for loss, name, status in sorted(rows)]
    show(f"{len(members)} run{'s' if len(members) > 1 else ''} in {out}", ("run", "status", "validation loss"), cells)
