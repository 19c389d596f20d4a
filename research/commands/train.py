"""`train EXPERIMENT`: train one run, or go on where it stopped."""

from __future__ import annotations

import pathlib

from research.commands import overrides
from research.commands.arguments import check_writable, prefixed, switch, take
from research.train.launchers import Processes
from research.types import UserError

USAGE = """usage: python -m research train EXPERIMENT [--FIELD VALUE ...] [--out FOLDER] [--allow-changes]
       [--processes.address HOST:PORT --processes.count N --processes.index I]"""

DESCRIPTION = """Train {experiment}. --out FOLDER: where the run is kept, runs/{name} if not given; the same command
again goes on where it stopped. --allow-changes: go on under another configuration. Ctrl-C saves and exits with status
75. Several processes train as one where srun, mpirun or a TPU pod started them, or, on each, --processes.address
HOST:PORT (of process 0), --processes.count and --processes.index say so. Every field of the experiment:"""

INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: try again later, which resumes


def main(arguments: list[str]) -> int:
    """Train the experiment that `arguments` name; return 0 when done and 75 when interrupted with all saved."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        print("python -m research train EXPERIMENT --help shows every field of the experiment.")
        return 0
    experiment, rest = experiment_of(arguments, USAGE)

    from research.config import check, load_experiment

    run = load_experiment(experiment)
    if "-h" in rest or "--help" in rest:
        overrides.show_help(run, f"train {experiment}", DESCRIPTION.format(experiment=experiment, name=run.name))
        return 0
    out, rest = take(rest, "--out")
    allow_changes, rest = switch(rest, "--allow-changes")
    of_processes, rest = prefixed("--processes.", rest)
    processes = overrides.parse_part("processes", Processes(), of_processes)
    run = overrides.parse(run, rest)
    check(run)
    folder = pathlib.Path(out or f"runs/{run.name}")
    check_writable(folder)

    from research.train.loop import train  # jax: only once the configuration is known to be good
    from research.train.processes import joined

    with joined(processes):
        ended = train(run, folder, allow_changes=allow_changes)
    return 0 if ended == "done" else INTERRUPTED


def experiment_of(arguments: list[str], usage: str) -> tuple[str, list[str]]:
    """Return the experiment file, which comes first, and the other arguments.

    Raises:
        UserError: There is none.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"no experiment file given; {usage}")
    return arguments[0], arguments[1:]
