"""A JobSet (jobset.x-k8s.io/v1alpha2): one pod a machine with all its GPUs, or one a host of a TPU slice of GKE.

JobSet's controller must be installed in the cluster. The image has this repository as its working directory, with what
requirements.txt and JAX for the device need: `pip install -r requirements.txt 'jax[cuda12]'`, or `'jax[tpu]'`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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

WORKERS, CONTAINER, VOLUME, SHARED = "workers", "train", "runs", "shared-memory"
INDEX = "PROCESS_INDEX"
COMPLETION = "metadata.annotations['batch.kubernetes.io/job-completion-index']"

# GKE's names, and the axes of a slice's topology (cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus).
TPUS = {
    "v4": ("tpu-v4-podslice", 3),
    "v5e": ("tpu-v5-lite-podslice", 2),
    "v5p": ("tpu-v5p-slice", 3),
    "v6e": ("tpu-v6e-slice", 2),
}


@dataclass(frozen=True)
class Kubernetes:
    """What the cluster is asked for."""

    image: str = ""
    """Container image."""
    claim: str = ""
    """PersistentVolumeClaim that holds runs and caches: ReadWriteMany where there are several pods. A pod's own disk
    ends with the pod."""
    mount: str = "/mnt/tercet"
    """Where the claim is mounted."""
    nodes: int = 1
    """Machines with GPUs, a pod and a process each."""
    gpus: int = 8
    """GPUs a machine; 0: none."""
    tpu: Literal["", "v4", "v5e", "v5p", "v6e"] = ""
    """Generation of GKE's TPUs, in place of nodes and GPUs."""
    topology: str = ""
    """Chips of the TPU slice along its axes: 4x4, 2x2x4."""
    chips: int = 4
    """TPU chips a host."""
    cpus: str = ""
    """CPU cores asked for a pod, such as 32 or 500m; empty: none."""
    memory: str = ""
    """Memory asked for a pod, such as 400Gi; empty: none."""
    namespace: str = ""
    """Namespace; empty: the current one."""
    queue: str = ""
    """Kueue's local queue; empty: none."""
    restarts: int = 10
    """Failures after which the job fails for good; interruptions, after which all is saved, do not count."""
    grace: int = 300
    """Seconds to save in, once a pod is told to end."""
    python: str = "python"
    """The image's interpreter."""

    submit: ClassVar[tuple[str, ...]] = ("kubectl", "create", "--filename")

    @property
    def devices(self) -> int:
        """Return how many devices all processes have together."""
        return math.prod(self._axes()) if self.tpu else self.nodes * max(1, self.gpus)

    @property
    def pods(self) -> int:
        """Return how many pods there are, which is how many processes."""
        return self.devices // self.chips if self.tpu else self.nodes

    def check(self) -> None:
        """Refuse what the cluster could not give.

        Raises:
            UserError: Names the flag, and what it may be.
        """
        required(self, "image", "name the container image that holds this repository")
        required(self, "claim", "name the PersistentVolumeClaim that keeps runs; a pod's own disk ends with the pod")
        required(self, "python", "name the interpreter")
        check_plain(self, "image", "claim", "mount", "cpus", "memory", "namespace", "queue")
        check_counts(self, nodes=1, gpus=0, chips=1, restarts=0, grace=1)
        if not self.mount.startswith("/"):
            raise UserError(f"--mount is {self.mount!r}: it must begin with a slash")
        if self.topology and not self.tpu:
            raise UserError("--topology is of TPUs: give --tpu, or leave it out")
        if self.tpu and (len(self._axes()) != TPUS[self.tpu][1] or self.devices % self.chips or not self.devices):
            raise UserError(
                f"--topology {self.topology!r} is no slice of {self.tpu} in hosts of {self.chips} chips: give "
                f"{'4x4' if TPUS[self.tpu][1] == 2 else '2x2x4'} or the like, or other --chips"
            )

    def render(self, work: Work) -> str:
        """Return the manifest."""
        name = label(work.name)
        metadata: dict[str, Any] = {"name": name}
        if self.namespace:
            metadata["namespace"] = self.namespace
        if self.queue:
            metadata["labels"] = {"kueue.x-k8s.io/queue-name": self.queue}
        if self.tpu:  # a slice is one node pool, and no other job may take hosts of it
            metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        # Status 75 is the pod's word that all is saved: it is begun again as often as it takes. Pods of before must be
        # gone by then, as they write to the same folder.
        failures = {
            "maxRestarts": self.restarts,
            "restartStrategy": "BlockingRecreate",
            "rules": [
                {
                    "name": "interrupted",
                    "action": "RestartJobSetAndIgnoreMaxRestarts",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        }
        interrupted = {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [work.again]},
        }
        job = {
            "parallelism": self.pods,
            "completions": self.pods,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [interrupted]},
            "template": {"spec": self._pod(work, f"{name}-{WORKERS}-0-0.{name}:{PORT}")},
        }
        value = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": metadata,
            "spec": {
                "failurePolicy": failures,
                "replicatedJobs": [{"name": WORKERS, "replicas": 1, "template": {"spec": job}}],
            },
        }
        return manifest(header(work, "kubectl create --filename FILE"), value)

    def _pod(self, work: Work, address: str) -> dict[str, Any]:
        """Return the specification of every pod; process 0 is at `address`."""
        words = [literal(word) for word in command(self.python, work, work.out or f"{self.mount}/runs/{work.name}")]
        environment: list[dict[str, Any]] = [
            {"name": "TERCET_CACHE", "value": f"{self.mount}/cache"},
            {"name": "HF_HOME", "value": f"{self.mount}/huggingface"},
        ]
        if self.pods > 1 and not self.tpu:  # hosts of a TPU slice know one another
            environment.append({"name": INDEX, "valueFrom": {"fieldRef": {"fieldPath": COMPLETION}}})
            words += explicit(address, str(self.pods), f"$({INDEX})")
        asked = {"cpu": self.cpus, "memory": self.memory}
        held = {"google.com/tpu": self.chips} if self.tpu else {"nvidia.com/gpu": self.gpus}
        resources = {
            kind: {key: value for key, value in each.items() if value}
            for kind, each in {"requests": asked, "limits": held}.items()
        }
        container: dict[str, Any] = {
            "name": CONTAINER,
            "image": self.image,
            "command": words,
            "env": environment,
            "resources": {kind: each for kind, each in resources.items() if each},
            "volumeMounts": [{"name": VOLUME, "mountPath": self.mount}],
        }
        volumes: list[dict[str, Any]] = [{"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}]
        if not self.tpu and self.gpus:  # NCCL does not begin with the 64 MB that a container has
            container["volumeMounts"].append({"name": SHARED, "mountPath": "/dev/shm"})
            volumes.append({"name": SHARED, "emptyDir": {"medium": "Memory"}})
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": self.grace,
            "containers": [container],
            "volumes": volumes,
        }
        if not self.tpu:
            return pod
        selector = {"gke-tpu-accelerator": TPUS[self.tpu][0], "gke-tpu-topology": self.topology}
        return {"nodeSelector": {f"cloud.google.com/{key}": value for key, value in selector.items()}} | pod

    def _axes(self) -> list[int]:
        found = re.fullmatch(r"\d+(x\d+)*", self.topology, re.ASCII)
        return [int(size) for size in self.topology.split("x")] if found else []


def literal(word: str) -> str:
    """Return `word` as Kubernetes must be told it, which reads $(NAME) in a command as a variable, and $$ as $."""
    return re.sub(r"\$(?=[$(])", "$$", word)
