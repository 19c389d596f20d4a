"""A task of SkyPilot: machines of any cloud, one process each, begun again where they are taken away."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar

from research.launch.work import (
    PORT,
    Work,
    check_counts,
    check_plain,
    command,
    explicit,
    header,
    label,
    manifest,
    required,
)
from research.types import UserError

BUCKETS = ("s3://", "gs://", "r2://", "oci://", "cos://", "https://")

SETUP = """\
pip install --quiet uv
[ -d .venv ] || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv -r requirements.txt 'jax[cuda12]'
"""


@dataclass(frozen=True)
class SkyPilot:
    """What SkyPilot is asked for."""

    nodes: int = 1
    """Machines, a process each."""
    accelerators: str = "H100:8"
    """Accelerators of a machine and how many: NAME:COUNT, as `sky show-gpus` lists them."""
    infra: str = ""
    """Where: aws, gcp/us-central1, k8s; empty: wherever it is cheapest."""
    spot: bool = False
    """Take machines that may be taken away, which are cheaper."""
    image: str = ""
    """Image of the machines, such as docker:IMAGE; empty: SkyPilot's own."""
    disk: int = 0
    """Disk of a machine in GB; 0: SkyPilot's default."""
    bucket: str = ""
    """Bucket that keeps the runs of one machine: s3://NAME, gs://NAME."""
    volume: str = ""
    """SkyPilot's volume that keeps the runs of several machines, which all must see: `sky volumes apply` makes it."""
    mount: str = "/mnt/tercet"
    """Where the bucket or the volume is mounted."""
    restarts: int = 3
    """Failures after which the job fails for good; interruptions, after which all is saved, do not count."""
    setup: str = SETUP
    """Shell commands that make a machine ready."""
    python: str = ".venv/bin/python"
    """The interpreter that `setup` installs."""

    submit: ClassVar[tuple[str, ...]] = ("sky", "jobs", "launch", "--yes")

    @property
    def devices(self) -> int:
        """Return how many devices all processes have together."""
        return self.nodes * int(self.accelerators.partition(":")[2] or 1)

    def check(self) -> None:
        """Refuse what SkyPilot would, and what would lose the run.

        Raises:
            UserError: Names the flag, and what it may be.
        """
        check_counts(self, nodes=1, disk=0, restarts=0)
        check_plain(self, "infra", "image", "bucket", "volume", "mount")
        required(self, "python", "name the interpreter")
        if not re.fullmatch(r"[A-Za-z][\w.-]*(:[1-9]\d*)?", self.accelerators, re.ASCII):
            raise UserError(f"--accelerators is {self.accelerators!r}: it must be NAME:COUNT, as H100:8")
        if self.accelerators.lower().startswith("tpu"):
            raise UserError(f"--accelerators {self.accelerators} is a TPU: only --kubernetes --tpu knows them")
        if not self.mount.startswith("/"):
            raise UserError(f"--mount is {self.mount!r}: it must begin with a slash")
        if bool(self.bucket) == bool(self.volume):
            raise UserError("give --bucket or --volume, one of them: a machine's own disk ends with the machine")
        if self.bucket and not self.bucket.startswith(BUCKETS):
            raise UserError(f"--bucket is {self.bucket!r}: it must begin with one of {', '.join(BUCKETS)}")
        if self.bucket and self.nodes > 1:
            raise UserError(f"--bucket is no file system that {self.nodes} machines share: give --volume instead")

    def render(self, work: Work) -> str:
        """Return the task."""
        words = shlex.join(command(self.python, work, work.out or f"{self.mount}/runs/{work.name}"))
        run = f"exec {words}\n"
        if self.nodes > 1:
            others = explicit('"$address"', '"$SKYPILOT_NUM_NODES"', '"$SKYPILOT_NODE_RANK"')
            run = f'address="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"\nexec {words} {" ".join(others)}\n'
        resources: dict[str, Any] = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "use_spot": self.spot,
            "image_id": self.image,
            "disk_size": self.disk,
            "job_recovery": {"max_restarts_on_errors": self.restarts, "recover_on_exit_codes": [work.again]},
        }
        # Only a cached mount can be appended to and renamed in, which a run's files are.
        kept = {"file_mounts": {self.mount: {"source": self.bucket, "mode": "MOUNT_CACHED"}}}
        value = {
            "name": label(work.name),
            "num_nodes": self.nodes,
            "resources": {key: value for key, value in resources.items() if value},
            "workdir": ".",
            **(kept if self.bucket else {"volumes": {self.mount: self.volume}}),
            **({"envs": {"TERCET_CACHE": f"{self.mount}/cache"}} if self.volume else {}),
            **({"setup": self.setup} if self.setup else {}),
            "run": run,
        }
        return manifest(header(work, "in the folder of this repository:  sky jobs launch FILE"), value)
