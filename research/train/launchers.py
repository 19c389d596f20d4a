"""How many processes train together, and which of them this one is: told by hand, or read from what started it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from research.types import UserError

PORTS = range(61_440, 65_536)  # where a job's number picks one, so that jobs on the same machine do not meet


@dataclass(frozen=True)
class Processes:
    """The processes that train as one; what is not given is asked of SLURM, Open MPI or the TPU pod."""

    address: str = ""
    """HOST:PORT where process 0 listens, and the others find it."""
    count: int = 0
    """How many processes there are; 0: as the launcher says, or one."""
    index: int = -1
    """Which of them this is: 0, 1, ...; -1: as the launcher says."""
    heartbeat: float = 100.0
    """Seconds of silence after which a process is taken for dead, and the others end."""
    wait: float = 300.0
    """Seconds that the first process to come waits for the last."""


class Place(NamedTuple):
    """One process among several."""

    address: str  # host:port of process 0; empty where the launcher does not say
    count: int
    index: int
    devices: list[int] | None = None  # of this host's devices those of this process; None: all


def place(processes: Processes, environment: Mapping[str, str]) -> Place | None:
    """Return where this process stands among several, or None where it is the only one.

    Raises:
        UserError: What is given and what the launcher says do not make a whole; names the field.
    """
    for name, least in (("heartbeat", 1.0), ("wait", 1.0), ("count", 0), ("index", -1)):
        value = getattr(processes, name)
        if not least <= value < float("inf"):
            raise UserError(f"processes.{name} is {value}: it must be at least {least}")
    given = bool(processes.address or processes.count or processes.index >= 0)
    found = open_mpi(environment) or slurm(environment) or (None if given else tpu(processes.wait))
    count = processes.count or (found.count if found else 0)
    index = processes.index if processes.index >= 0 else (found.index if found else -1)
    address = processes.address or (found.address if found else "")
    if count == 1 or not (given or found):
        return None
    for name, missing in (("count", count < 1), ("index", index < 0), ("address", not address)):
        if missing:
            raise UserError(
                f"processes.{name} is not given, and no launcher says it: several processes need processes.address "
                "HOST:PORT, processes.count and processes.index"
            )
    if index >= count:
        raise UserError(f"processes.index is {index}, but there are {count} processes: they are 0 to {count - 1}")
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+):\d{1,5}", address):
        raise UserError(f"processes.address is {address}: give HOST:PORT, such as node1:12345")
    return Place(address, count, index, found.devices if found else None)


def slurm(environment: Mapping[str, str]) -> Place | None:
    """Return the place of a task that srun started; None elsewhere, as in the batch script itself."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if not all(name in environment for name in names):
        return None
    job, nodes, count, index = (environment[name] for name in names)
    step = environment.get("SLURM_STEP_ID", "0")
    here = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", count))[int(environment.get("SLURM_NODEID", 0))]
    devices = _devices(environment, here, int(environment.get("SLURM_LOCALID", 0)))
    return Place(f"{first_host(nodes)}:{_port(int(job) + int(step))}", int(count), int(index), devices)


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list.

    >>> first_host("gpu[007-012,020],gpu3"), first_host("n1,n2"), first_host("rack[2-3]-a")
    ('gpu007', 'n1', 'rack2-a')
    """
    prefix, first, suffix = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes).groups(default="")
    return prefix + first + suffix


def _tasks_per_node(text: str) -> list[int]:
    """Return how many tasks each node has, of '4(x2),1': [4, 4, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def open_mpi(environment: Mapping[str, str]) -> Place | None:
    """Return the place of a process that mpirun started; its address is empty where Open MPI (5) does not say it."""
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    names = ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
    count, index, here, local = (int(environment[f"OMPI_COMM_WORLD_{name}"]) for name in names)
    job, _, uri = environment.get("OMPI_MCA_orte_hnp_uri", "").partition(".")  # 1531576320.0;tcp://10.96.0.1:34911
    job = job or re.sub(r"\D", "", environment.get("PMIX_NAMESPACE", "")) or "0"  # prterun-node1-4711@1
    host = re.search(r"tcp://([^,:]+)|tcp6://(\[[^,\]]+)", uri)
    name = "127.0.0.1" if count == here else host and (host[1] or f"{host[2]}]")
    return Place(f"{name}:{_port(int(job) >> 12)}" if name else "", count, index, _devices(environment, here, local))


def _port(number: int) -> int:
    return PORTS[number % len(PORTS)]


def _devices(environment: Mapping[str, str], here: int, local: int) -> list[int] | None:
    """Return this process's GPU where several share a host, unless the launcher has shown it only one."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return None if here == 1 or (visible and "," not in visible) else [local]


def tpu(wait: float) -> Place | None:
    """Return the place of a host of a TPU pod, as JAX finds it; None elsewhere, and on a TPU of one host."""
    from jax._src.clusters import cloud_tpu_cluster

    try:
        for cluster in (cloud_tpu_cluster.GkeTpuCluster, cloud_tpu_cluster.GceTpuCluster):
            if cluster.is_env_present() and (count := cluster.get_process_count()) > 1:
                address = cluster.get_coordinator_address(int(wait), None)
                return Place(address, count, cluster.get_process_id())
    except Exception as error:  # its metadata cannot be read: a TPU of its own, most likely
        print(f"warning: this TPU does not say whether it is part of a pod ({error}): going on alone", file=sys.stderr)
    return None
