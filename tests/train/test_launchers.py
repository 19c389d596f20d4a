"""What SLURM, Open MPI and TPU pods say of processes, and what is given by hand."""

import doctest
import types

import pytest

from research.train import launchers
from research.train.launchers import Place, Processes, place
from research.types import UserError

SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
PORT = launchers.PORTS[1234567 % len(launchers.PORTS)]
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


def test_a_process_started_by_nobody_is_alone():
    assert place(Processes(), {}) is None
    assert place(Processes(address="a:1", count=1, index=0), {}) is None
    assert doctest.testmod(launchers).failed == 0


def test_slurm_says_where_a_task_stands():
    assert place(Processes(), SLURM) == Place(f"gpu07:{PORT}", 5, 3, [1])
    assert place(Processes(), SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).devices is None  # already its own
    assert place(Processes(), SLURM | {"CUDA_VISIBLE_DEVICES": "2,3"}).devices == [1]
    last = {"SLURM_PROCID": "4", "SLURM_NODEID": "2", "SLURM_LOCALID": "0"}
    assert place(Processes(), SLURM | last).devices is None  # it has its host for itself, with all devices
    assert place(Processes(), SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None  # a job of one task
    batch = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert place(Processes(), batch) is None  # the batch script itself, which runs once
    assert place(Processes(address="head:9000"), SLURM).address == "head:9000"


def test_open_mpi_says_where_a_process_stands():
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    port = launchers.PORTS[(1531576320 >> 12) % len(launchers.PORTS)]
    assert place(Processes(), MPI | uri) == Place(f"10.96.0.1:{port}", 4, 2, [0])
    six = {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"}
    assert place(Processes(), MPI | six).address.startswith("[fe80::b9b:ac5d]:")
    here = MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "prterun-node1-4711@1"}
    assert place(Processes(), here).address.startswith("127.0.0.1:")
    with pytest.raises(UserError, match="processes.address is not given, and no launcher says it"):
        place(Processes(), MPI)


def test_a_tpu_of_one_host_is_alone_and_a_pod_is_not(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "0")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "localhost")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,localhost")
    assert place(Processes(), {}) == Place("localhost:8482", 2, 1)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert place(Processes(), {}) is None


def test_a_tpu_whose_metadata_cannot_be_read_goes_on_alone(monkeypatch, capsys):
    from jax._src.clusters import cloud_tpu_cluster

    def unreachable():
        raise OSError("no route to host")

    broken = types.SimpleNamespace(is_env_present=unreachable)
    monkeypatch.setattr(cloud_tpu_cluster, "GkeTpuCluster", broken)
    assert place(Processes(), {}) is None
    assert "no route to host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "a:1"}, "processes.count is not given"),
        ({"address": "a:1", "count": 2}, "processes.index is not given"),
        ({"count": 2, "index": 0}, "processes.address is not given"),
        ({"address": "a:1", "count": 2, "index": 2}, "processes.index is 2, but there are 2 processes: they are 0 to 1"),
        ({"address": "node1", "count": 2, "index": 0}, "processes.address is node1: give HOST:PORT"),
        ({"address": "a:1", "count": -1, "index": 0}, "processes.count is -1"),
        ({"heartbeat": 0.0}, "processes.heartbeat is 0.0"),
        ({"heartbeat": float("nan")}, "processes.heartbeat is nan"),
    ],
)
def test_what_does_not_make_a_whole_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        place(Processes(**given), {})
