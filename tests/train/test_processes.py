"""Two real processes are one run: the same numbers, one checkpoint, one end. They talk over the loopback interface."""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest

from research.config import Mesh
from research.report import logs
from research.train import peers, processes, sharding
from research.train.checkpoint import Checkpoints
from research.train.launchers import Place
from research.train.loop import train
from research.train.restore import evaluate_run, load_run
from research.types import UserError
from tests.train import small, small_tasks
from tests.train.several import HEARTBEAT, Several, free_port

TIMING = {"seconds", "tokens_per_s", "elapsed"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    yield small.text(folder)
    del os.environ["TERCET_CACHE"]


def rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in logs.read(folder)]


def losses(folder):
    return [(row["kind"], row["step"], row["loss"]) for row in rows(folder) if "loss" in row]


def assert_same_losses(first, second):
    assert [row[:2] for row in losses(first)] == [row[:2] for row in losses(second)]
    np.testing.assert_allclose([row[2] for row in losses(first)], [row[2] for row in losses(second)], rtol=1e-6)


def assert_same_arrays(first, second):
    """Assert that the newest checkpoints of two folders hold the same bits."""
    one, other = (load_run(folder, "latest") for folder in (first, second))
    assert one.step == other.step
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one.params), jax.device_get(other.params))


def command(experiment, folder, mesh=("--mesh.fsdp", 2)):
    return ["train", experiment, "--out", folder, *mesh]


def told(several):
    """Return the lines of errors of each process, and fail where there is a traceback."""
    texts = [several.said(index) for index in several.processes]
    assert not any("Traceback" in text or "Terminating process" in text for text in texts), texts
    return [[line for line in text.splitlines() if line.startswith("error: ")] for text in texts]


def test_two_processes_train_as_one_and_one_goes_on_from_their_checkpoint(source, tmp_path):
    fields = {"steps": 3, "save_every": 2, "evaluate_every": 0}
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", **fields)
    with Several(tmp_path, command(experiment, tmp_path / "two")) as two:
        run = small.run("causal", source, mesh=Mesh(data=1, fsdp=2), **fields)
        assert train(run, tmp_path / "one") == "done"  # meanwhile
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
        assert two.said(1) == two.said(1, "out") == two.said(0, "out") == ""
    assert_same_losses(tmp_path / "one", tmp_path / "two")
    assert logs.read_run(tmp_path / "two")["devices"]["processes"] == 2
    two, one = load_run(tmp_path / "two", "latest"), load_run(tmp_path / "one", "latest")
    assert two.step == one.step == 3
    tables = [each.params["tokens"]["embedding"] for each in (two, one)]  # every other gradient may be a zero's noise
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_one_process_reads_all_rows_and_places_them():
    mesh = sharding.create_mesh(Mesh(data=2, fsdp=2, tensor=2))
    assert processes.own_rows(mesh, 16) == slice(0, 16)
    record = {"tokens": np.arange(64, dtype=np.int32).reshape(16, 4)}
    whole = processes.placed(mesh, record)["tokens"]
    np.testing.assert_array_equal(whole, record["tokens"])
    assert whole.sharding == sharding.batch_sharding(mesh)


def test_a_mesh_has_the_sizes_that_are_asked_for_or_one_line_of_why_not():
    assert sharding.sizes(Mesh(), 8) == (8, 1, 1) and sharding.sizes(Mesh(data=0, fsdp=2, tensor=2), 8) == (2, 2, 2)
    with pytest.raises(UserError, match=r"mesh \(0, 0, 1\) has a size below 1: only mesh.data may be 0"):
        sharding.sizes(Mesh(fsdp=0), 8)
    with pytest.raises(UserError, match="needs 16 devices, but there are 8"):
        sharding.sizes(Mesh(data=4, fsdp=4), 8)


def test_what_comes_of_a_peer_is_known_from_ones_own_mistakes():
    try:
        try:
            raise ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
        except ValueError as error:
            raise UserError("cannot write checkpoint") from error
    except UserError as error:
        assert peers.of_peers(error)
    assert not peers.of_peers(UserError("UNKNOWN field"[1:])) and not peers.of_peers(KeyboardInterrupt())


def called(port, line):
    """Say `line` to process 0 as another would, once it listens, and return the connection."""
    while True:
        with contextlib.suppress(OSError):
            link = socket.create_connection(("127.0.0.1", port), timeout=10)
            link.sendall(line)
            return link


def test_who_came_and_went_is_waited_for_again_and_strangers_are_not_heard():
    port = free_port()
    places = [Place(f"127.0.0.1:{port}", 3, index) for index in range(3)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(peers.gather, places[0], 10)
        called(port, b"GET / HTTP/1.1\r\n\r\n").close()
        called(port, b"tercet 1 3\n").close()  # killed while it waited
        others = [pool.submit(peers.gather, place, 10) for place in places[1:]]
        assert [each.result() for each in (first, *others)] == [None] * 3
        alone = pool.submit(peers.gather, places[0], 1)
        called(port, b"tercet 1 3\n").close()
        with pytest.raises(UserError, match="process 1, 2 of 3 did not come"):
            alone.result()


def test_what_else_has_the_port_of_process_0_is_not_taken_for_it():
    def serve(server):
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as link:
                    link.sendall(b"\x00\x00\x24\x04\xff\xff go\n")  # as gRPC greets

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"process 0 did not answer at {address} \(something else answers\)"):
            peers.gather(Place(address, 2, 1), 0.5)
        server.shutdown(socket.SHUT_RDWR)


def test_alone_nothing_is_asked_of_anyone(tmp_path):
    assert processes.agreed("x", lambda: (1, float("inf"))) == (1, float("inf"))
    assert processes.gathered("x", lambda: "y") == ["y"]
    processes.check_shared(tmp_path / "not there")
    stop = processes.Stop()
    assert [stop(1, False), stop(2, True)] == [False, True]
    with processes.joined(processes.Processes()), processes.in_turn("x"):
        assert processes.first()


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("--mesh.fsdp", 4), ("--mesh.fsdp", 2, "--mesh.tensor", 2), ("--mesh.tensor", 4)])
def test_losses_are_those_of_one_process_on_any_mesh(mesh, source, tmp_path):
    experiment = small.experiment("span_corruption", source, tmp_path / "experiment.py")
    with Several(tmp_path, command(experiment, tmp_path / "two", mesh), devices=2) as two:
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
    with Several(tmp_path, command(experiment, tmp_path / "one", mesh), count=1, devices=4) as one:
        assert one.wait() == [0], one.said(0)
    assert_same_losses(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_ends_the_other_and_what_is_resumed_is_bitwise_the_run_left_alone(killed, source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=200, save_every=20, evaluate_every=0)
    folder = tmp_path / "killed"
    with Several(tmp_path, command(experiment, folder), devices=2) as two:
        two.until(lambda: (folder / "checkpoints/40/manifest.json").exists())
        two.processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert two.processes[1 - killed].wait(HEARTBEAT + 20) == 1
        assert time.monotonic() - began < HEARTBEAT + 5
        (line,) = told(two)[1 - killed]
        assert re.match(rf"error: process {killed} \(\S+\) (is )?gone: ", line) and "last checkpoint" in line
    with Checkpoints(folder / "checkpoints") as checkpoints:
        newest = checkpoints.latest()
        assert newest >= 40 and checkpoints.damage(newest) == []
    with Several(tmp_path, command(experiment, folder), devices=2) as two:
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
    with Several(tmp_path, command(experiment, tmp_path / "whole"), devices=2) as whole:
        assert whole.wait() == [0, 0], whole.said(0) + whole.said(1)
    assert rows(folder) == rows(tmp_path / "whole")
    assert_same_arrays(folder, tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_process_ends_all_of_three(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=100_000, batch_size=6, save_every=20)
    with Several(tmp_path, command(experiment, tmp_path / "run", ("--mesh.data", 3)), count=3) as three:
        three.until(lambda: (tmp_path / "run/checkpoints/20/manifest.json").exists())
        three.processes[2].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert [three.processes[index].wait(HEARTBEAT + 20) for index in (0, 1)] == [1, 1]
        assert time.monotonic() - began < HEARTBEAT + 5
        lines = told(three)
        assert lines[0] == lines[1] and re.match(r"error: process 2 \(\S+\) gone: silent for 6 s", lines[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 0])
def test_a_process_that_hears_nothing_ends_also_where_no_connection_closes(stopped, source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=100_000, save_every=20)
    with Several(tmp_path, command(experiment, tmp_path / "run")) as two:
        two.until(lambda: (tmp_path / "run/checkpoints/20/manifest.json").exists())
        two.processes[stopped].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert two.processes[1 - stopped].wait(HEARTBEAT + 20) == 1
        assert time.monotonic() - began < HEARTBEAT + 5
        assert f"process {stopped} (" in told(two)[1 - stopped][0]


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_one_process_goes_on_where_two_stopped_and_two_where_one_stopped(counts, source, tmp_path):
    fields = {"steps": 24, "save_every": 8, "evaluate_every": 0, "keep": 9}
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", **fields)
    mesh = ("--mesh.data", 0, "--mesh.fsdp", 2)  # all devices: the configuration is the same for any number of them
    folder = tmp_path / "run"
    with Several(tmp_path, command(experiment, folder, mesh), count=counts[0], devices=2) as before:
        assert set(before.wait()) == {0}, before.said(0)
    logged = dict((step, loss) for kind, step, loss in losses(folder) if kind == "train")
    for later in (16, 24):
        shutil.rmtree(folder / "checkpoints" / str(later))
    with Several(tmp_path, [*command(experiment, folder, mesh), "--allow-changes"], count=counts[1], devices=2) as after:
        assert set(after.wait()) == {0}, after.said(0)
    again = dict((step, loss) for kind, step, loss in losses(folder) if kind == "train")
    assert logs.read_run(folder)["resumed"][0]["step"] == 8
    assert {step: loss for step, loss in again.items() if step <= 8} == {s: v for s, v in logged.items() if s <= 8}
    np.testing.assert_allclose([again[s] for s in range(9, 25)], [logged[s] for s in range(9, 25)], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("told_to_stop", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_one_process_saves_the_same_step_in_all(told_to_stop, number, source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=100_000, save_every=20)
    with Several(tmp_path, command(experiment, tmp_path / "run")) as two:
        two.until(lambda: (tmp_path / "run/checkpoints/40/manifest.json").exists())
        two.processes[told_to_stop].send_signal(number)
        assert two.wait(60) == [75, 75], two.said(0) + two.said(1)
        stopped = rows(tmp_path / "run")[-1]["step"]
        assert f"stopped after step {stopped} of 100000, all saved" in two.said(0)
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.latest() == stopped and checkpoints.damage(stopped) == []


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1])
def test_a_process_that_never_comes_is_named(alone, source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py")
    with Several(tmp_path, command(experiment, tmp_path / "run"), started=[alone], wait=3) as one:
        assert one.wait(60) == [2]
        assert f"error: process {1 - alone} " in told(one)[0][0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_told_once_and_ends_all(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=100, save_every=1)
    apart = ["--optimizer.learning-rate", "1e30", "--optimizer.clip", "0"]
    with Several(tmp_path, [*command(experiment, tmp_path / "run"), *apart], heartbeat=60) as two:
        assert two.wait() == [1, 1]
        (line,), none = told(two)
        assert re.match(r"error: step \d+: loss .* not applied and not saved", line) and none == []
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        kept = checkpoints.latest()
        assert kept and checkpoints.damage(kept) == [] and f"is of step {kept}" in line


@pytest.mark.slow
def test_what_one_process_refuses_ends_all(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py")
    own = [command(experiment, tmp_path / "run"), [*command(experiment, tmp_path / "run"), "--seed", "1"]]
    with Several(tmp_path, own, heartbeat=60) as two:
        assert two.wait() == [2, 2]
        (first,), (second,) = told(two)
        assert "process 0 was given another configuration (seed: 0 -> 1)" in second
        assert re.match(r"error: process 1 \(\S+\) ended: process 0 was given another", first)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    for folders in (("here/run", "there/run"), ("here/run", "here/other")):  # another disk, another name
        with Several(tmp_path, [command(experiment, tmp_path / name) for name in folders], heartbeat=60) as two:
            assert two.wait() == [2, 2]
            (line,), none = told(two)
            assert "run in process 1 is not the folder of process 0: give one that all hosts share" in line and none == []
    assert not any((tmp_path / "here").iterdir()) and not any((tmp_path / "there").iterdir())
    with Several(tmp_path, command(experiment, tmp_path / "few", ("--mesh.data", 1)), heartbeat=60) as two:
        assert two.wait() == [2, 2]
        assert "takes 1 of 2 devices, and none of process 1" in str(told(two))
    assert not (tmp_path / "few").exists() and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_ends_all(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py")
    with Several(tmp_path, command(experiment, tmp_path / "run")) as two:
        two.until(lambda: any((tmp_path / "run").glob("tokenizer/*")))  # what follows is compiled
        two.processes[0].send_signal(signal.SIGINT)
        assert two.wait(60) in ([130, 130], [75, 75])  # the latter where it was compiled already


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_by_two_as_by_one(source, tmp_path):
    experiment = small.experiment("masked", source, tmp_path / "experiment.py")
    with Several(tmp_path, command(experiment, tmp_path / "run"), devices=2) as two:
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
    with Several(tmp_path, ["evaluate", tmp_path / "run", "--json"]) as two:
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
        scores = json.loads(two.said(0, "out"))
        assert two.said(1, "out") == two.said(1) == ""
    alone = evaluate_run(tmp_path / "run", "best", "validation")
    assert scores.keys() == alone.keys() and scores["scored"] == alone["scored"]
    np.testing.assert_allclose(scores["loss"], alone["loss"], rtol=1e-6)
    with Several(tmp_path, ["evaluate", tmp_path / "run", "--json"], count=1) as one:  # on one device, of a mesh of four
        assert one.wait() == [0]
        np.testing.assert_allclose(json.loads(one.said(0, "out"))["loss"], alone["loss"], rtol=1e-6)


TASK = """
import pathlib
from tests.train import small_tasks

def config():
    return small_tasks.run({name!r}, pathlib.Path({data!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification", "tagging", "seq2seq"])
def test_tasks_are_trained_and_scored_by_two_as_by_one(name, source, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    experiment = tmp_path / "experiment.py"
    experiment.write_text(TASK.format(name=name, data=str(small_tasks.data(data))))
    mesh = ("--mesh.data", 0, "--mesh.fsdp", 2)
    with Several(tmp_path, command(experiment, tmp_path / "two", mesh)) as two:
        assert two.wait() == [0, 0], two.said(0) + two.said(1)
    with Several(tmp_path, command(experiment, tmp_path / "one", mesh), count=1, devices=2) as one:
        assert one.wait() == [0], one.said(0)
    assert_same_losses(tmp_path / "one", tmp_path / "two")
    last = [[row for row in rows(tmp_path / each) if row["kind"] == "evaluation"][-1] for each in ("one", "two")]
    assert last[0].keys() == last[1].keys()
    for score in ("accuracy", "f1"):
        assert last[0].get(score) == pytest.approx(last[1].get(score))


@pytest.mark.slow
def test_two_processes_start_from_a_run_of_one_device_and_carry_what_they_read(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", epochs=0.2, steps=0)
    with Several(tmp_path, command(experiment, tmp_path / "first", ("--mesh.data", 1)), count=1) as one:
        assert one.wait() == [0], one.said(0)
    more = ["--init.path", tmp_path / "first", "--adapter.method", "lora", "--ema", "0.9"]
    for count in (1, 2):
        start = [*command(experiment, tmp_path / f"from-{count}"), *more]
        with Several(tmp_path, start, count=count, devices=2 // count) as each:
            assert set(each.wait()) == {0}, each.said(0)
    assert_same_losses(tmp_path / "from-1", tmp_path / "from-2")
    assert not (tmp_path / "from-2" / "unigram.partial.npy").exists()
