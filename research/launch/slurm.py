"""An sbatch script: one process a GPU, begun by srun and found by one another through Slurm's own variables."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import ClassVar

from research.launch.work import Work, check_counts, check_plain, command, header, required
from research.types import UserError

TIME = r"\d+|\d+(:\d+){1,2}|\d+-\d+(:\d+){0,2}"  # man sbatch, --time
EARLY = 60  # seconds by which Slurm may send the signal too early (man sbatch, --signal)
OPTION = r"[a-z][a-z-]*(=[\w.,:@%+/\[\]&|*()-]+)?"  # goes on in the words of one #SBATCH line

SCRIPT = """\
#!/bin/bash
{header}
{directives}
{setup}
# {grace} s before the time is over Slurm tells the processes, and not this script: they save and end with status {again},
# which asks for the same command again. Where this script is told too, the job was cancelled, or preempted, in which
# case Slurm itself begins it again.
told=
trap 'told=yes' TERM
srun {step} {command}
status=$?
if [ "$status" -eq {again} ] && [ -z "$told" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@dataclass(frozen=True)
class Slurm:
    """What sbatch is asked for."""

    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs a machine, with a process each; 0: none, and one process a machine on its CPU."""
    cpus: int = 0
    """CPU cores a process; 0: what the cluster gives."""
    memory: str = ""
    """Memory a machine, such as 400G; empty: what the cluster gives."""
    time: str = "24:00:00"
    """Longest time of one start, as sbatch spells it: minutes, HH:MM:SS or D-HH:MM:SS; then the job is begun again."""
    grace: int = 300
    """Seconds before the end of the time at which the run is told to save."""
    partition: str = ""
    """Partition; empty: the cluster's default."""
    account: str = ""
    """Account that is charged; empty: the user's default."""
    qos: str = ""
    """Quality of service; empty: the default."""
    options: tuple[str, ...] = ()
    """More options of sbatch, without their dashes: constraint=h100 exclusive."""
    setup: str = ""
    """Shell commands before training, such as module load cuda."""
    python: str = ".venv/bin/python"
    """The interpreter, a path that every machine sees."""

    submit: ClassVar[tuple[str, ...]] = ("sbatch",)

    @property
    def devices(self) -> int:
        """Return how many devices all processes have together."""
        return self.nodes * max(1, self.gpus)

    def check(self) -> None:
        """Refuse what sbatch would, or what would change the script.

        Raises:
            UserError: Names the flag, and what it may be.
        """
        check_counts(self, nodes=1, gpus=0, cpus=0, grace=1)
        check_plain(self, "memory", "partition", "account", "qos")
        required(self, "python", "name the interpreter")
        if not re.fullmatch(TIME, self.time, re.ASCII):
            raise UserError(f"--time is {self.time!r}: it must be minutes, HH:MM:SS or D-HH:MM:SS")
        if 0 < seconds(self.time) <= self.grace + EARLY:
            raise UserError(
                f"--time {self.time} leaves nothing to train in: the run is told to save {self.grace} s (--grace) before "
                f"its end, or up to {EARLY} s earlier"
            )
        for option in self.options:
            if not re.fullmatch(OPTION, option, re.ASCII):
                raise UserError(f"--options {option!r} is no option of sbatch: write key or key=value, without dashes")

    def render(self, work: Work) -> str:
        """Return the script."""
        asked = {
            "job-name": re.sub(r"[^\w.-]+", "-", work.name, flags=re.ASCII),
            "nodes": self.nodes,
            "ntasks-per-node": max(1, self.gpus),
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus or None,
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "signal": f"TERM@{self.grace}",
            "output": "%x-%j.log",
            "open-mode": "append",
        }
        lines = [f"{name}={value}" for name, value in asked.items() if value]
        # Each ends by itself once one has: none is killed while it saves. From Slurm 22.05 on srun does not read how
        # many cores sbatch was asked for.
        step = ["--kill-on-bad-exit=0", *([f"--cpus-per-task={self.cpus}"] if self.cpus else [])]
        return SCRIPT.format(
            header="\n".join(header(work, "in the folder of this repository, which every machine sees:  sbatch FILE")),
            directives="\n".join(f"#SBATCH --{line}" for line in [*lines, "requeue", *self.options]),
            setup=f"\n{self.setup}\n" if self.setup else "",
            grace=self.grace,
            again=work.again,
            step=" ".join(step),
            command=shlex.join(command(self.python, work, work.out)),
        )


def seconds(time: str) -> int:
    """Return the seconds of a `time` as sbatch spells it; 0 means that it never ends."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, left = (*parts, 0, 0)[:3]
    else:  # minutes alone, with seconds, or after hours
        hours, minutes, left = (0, *parts, 0) if len(parts) == 1 else (0, *parts)[-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + left
