"""`launch --slurm EXPERIMENT`: write a run as a job of a cluster; it is sent only where that is asked for."""

from __future__ import annotations

import difflib
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import Any

from research.commands import overrides
from research.commands.arguments import prefixed, switch, take
from research.commands.train import INTERRUPTED, experiment_of
from research.train.launchers import Processes, place
from research.types import UserError

USAGE = """usage: python -m research launch --slurm EXPERIMENT [--FLAG VALUE ...] [--FIELD VALUE ...] [--submit]
       python -m research launch --kubernetes EXPERIMENT ...
       python -m research launch --skypilot EXPERIMENT ...

Write the run as an sbatch script, as a JobSet of Kubernetes (GPUs, or GKE's TPUs), or as a task of SkyPilot, on
standard output. Interrupted at the end of its time, or when machines are taken away, the job is begun again, and the
run goes on. --submit: send it as well, by sbatch, kubectl or sky. --FIELD: any field of the experiment, as for train;
so are --out FOLDER, on a disk that all machines see, --allow-changes, --processes.heartbeat and --processes.wait.

python -m research launch --slurm --help (--kubernetes, --skypilot) shows the flags of each."""

DESCRIPTION = """Write a run for {system}: {what} --submit sends it. Every field of the experiment, --out FOLDER,
--allow-changes, --processes.heartbeat and --processes.wait are given as for train. Flags:"""


def main(arguments: list[str]) -> int:
    """Print the job that `arguments` describe, and send it where they say so; return 0, or 1 where sending failed."""
    from research.launch import SYSTEMS, Work
    from research.launch.work import check_words

    rest, chosen = arguments, []
    for system in SYSTEMS:
        given, rest = switch(rest, f"--{system}")
        chosen += [system] * given
    wants_help = "-h" in rest or "--help" in rest
    if not arguments or (wants_help and not chosen):
        print(USAGE)
        return 0 if arguments else 2
    if len(chosen) != 1:
        raise UserError(f"give one of {', '.join(f'--{system}' for system in SYSTEMS)}")
    cluster = SYSTEMS[chosen[0]]()
    if wants_help:
        what = sys.modules[type(cluster).__module__].__doc__.split(": ", 1)[1].split("\n\n")[0]
        text = DESCRIPTION.format(system=type(cluster).__name__, what=what)
        overrides.show_help(cluster, f"launch --{chosen[0]} EXPERIMENT", text)
        return 0
    check_words(arguments)
    submit, rest = switch(rest, "--submit")
    allow_changes, rest = switch(rest, "--allow-changes")
    out, rest = take(rest, "--out")
    waits, rest = prefixed("--processes.", rest)
    own, rest = of_cluster(cluster, rest)
    experiment, rest = experiment_of(rest, USAGE.partition("\n")[0])
    cluster = overrides.parse(cluster, own)
    cluster.check()
    if submit and shutil.which(cluster.submit[0]) is None:
        raise UserError(f"{cluster.submit[0]} is not on this machine: leave out --submit, and send it from where it is")
    waits = of_processes(waits)
    run, words = of_run(experiment, rest, cluster)
    if not run.save_every:
        print("note: save_every is 0: of a machine that fails without warning, the whole run is lost", file=sys.stderr)
    words = (experiment, *words, *waits, *(["--allow-changes"] if allow_changes else []))
    made_by = ("launch", *(word for word in arguments if word != "--submit"))
    text = cluster.render(Work(run.name, words, out or "", made_by, INTERRUPTED))
    print(text, end="")
    return send(text, cluster.submit) if submit else 0


def of_cluster(cluster: Any, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags of `cluster` with their values, and the other words."""
    known = overrides.fields(cluster)
    own, rest, left = [], [], list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, _ = word.partition("=")
        field = known.get(_path(flag)) if word.startswith("--") else None
        if field is None:
            rest.append(word)
            continue
        own.append(word)
        values = 0 if equals else 1
        if overrides.is_sequence(field.kind) and not equals:
            values = next((n for n, value in enumerate(left) if value.startswith("--")), len(left))
        elif field.kind is bool and left and left[0].lower() not in ("true", "false"):
            values = 0
        own += left[:values]
        del left[:values]
    return own, rest


def of_processes(arguments: list[str]) -> list[str]:
    """Return the words of how long the processes wait for one another; the job itself says who they are.

    Raises:
        UserError: An address, a count or an index is given, or what the run would refuse.
    """
    given, usual = overrides.parse_part("processes", Processes(), arguments), Processes()
    for name in ("address", "count", "index"):
        if getattr(given, name) != getattr(usual, name):
            raise UserError(f"--processes.{name} is the job's own to say: leave it out")
    place(replace(given, address="first:1", count=2, index=0), {})
    waits = {name: getattr(given, name) for name in ("heartbeat", "wait")}
    return [f"--processes.{name}={value:g}" for name, value in waits.items() if value != getattr(usual, name)]


def of_run(experiment: str, arguments: list[str], cluster: Any) -> tuple[Any, list[str]]:
    """Return the run, and the words of its overrides.

    Raises:
        UserError: The experiment or an override cannot work, or the mesh does not fit the devices of `cluster`.
    """
    from research.config import check, load_experiment

    run = load_experiment(experiment)
    for word in arguments:
        if word.startswith("--") and _path(word.partition("=")[0]) not in overrides.fields(run):
            _refuse_near(_path(word.partition("=")[0]), cluster)
    given = overrides.split(run, arguments)
    run = overrides.apply(run, given)
    check(run)
    check_layout(run, cluster.devices)
    return run, [word for override in given for word in override.arguments]


def check_layout(run: Any, devices: int) -> None:
    """Refuse a mesh that does not fit `devices`, and a batch that does not fit the mesh, as the run itself would.

    Raises:
        UserError: As `sharding.sizes` and `sharding.check_batch`; or devices would be left idle.
    """
    import jax  # only once the configuration is known to be good

    from research.train import sharding

    shape = sharding.sizes(run.mesh, devices, "asked for")
    if (used := math.prod(shape)) != devices:
        data, fsdp, tensor = shape
        raise UserError(
            f"mesh.data {data} x mesh.fsdp {fsdp} x mesh.tensor {tensor} uses {used} of {devices} devices: "
            "let it use them all, or ask for fewer"
        )
    mesh = jax.sharding.AbstractMesh(shape, ("data", "fsdp", "tensor"))  # of devices that are elsewhere
    sharding.check_batch(run.batch_size, run.microbatches, mesh)


def _path(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _refuse_near(path: str, cluster: Any) -> None:
    """Raise a UserError where `path`, which is no field of the run, is or nearly is a flag of a system."""
    from research.launch import SYSTEMS

    flag = "--" + path.replace("_", "-")
    others = [f"--{system}" for system, other in SYSTEMS.items() if path in overrides.fields(other())]
    if others:
        here = type(cluster).__name__.lower()
        raise UserError(f"{flag} is a flag of {' and '.join(others)}, not of --{here}: leave it out")
    if near := difflib.get_close_matches(path, overrides.fields(cluster), n=1, cutoff=0.75):
        raise UserError(f"unknown flag {flag}: did you mean --{near[0].replace('_', '-')}?")


def send(text: str, program: tuple[str, ...]) -> int:
    """Hand `text` to `program` as a file; return 0 where that took it, and 1 where it did not."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "job"
        file.write_text(text, encoding="utf-8")
        sys.stdout.flush()
        status = subprocess.run([*program, str(file)], check=False).returncode
    if status:
        print(f"error: {program[0]} ended with status {status}: the job was not sent", file=sys.stderr)
    return 1 if status else 0
