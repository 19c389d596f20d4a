"""A run is one function of (seed, step): stopped, killed or damaged anywhere, it ends in the same bits."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from research.config import Mesh, to_json
from research.report import logs
from research.train import loop
from research.train.checkpoint import Checkpoints
from research.train.lock import alone
from research.train.loop import status, train
from research.train.restore import evaluate_run, load_run
from research.train.session import open_session
from research.types import Diverged, UserError
from tests.train import small
from tests.train.kill import Killed, killed_before_saving

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMING = {"seconds", "tokens_per_s", "elapsed"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    yield small.text(folder)
    del os.environ["TERCET_CACHE"]


def one_device(run):
    return dataclasses.replace(run, mesh=Mesh(data=1))


def rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in logs.read(folder)]


def final(folder, run):
    session = open_session(run, None)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore(session.trainer.shapes)
    return jax.device_get(state)


def assert_same_run(first, second, run):
    assert rows(first) == rows(second)
    jax.tree.map(np.testing.assert_array_equal, final(first, run), final(second, run))


@pytest.mark.parametrize("name", ["masked", pytest.param("span_corruption", marks=pytest.mark.slow)])
def test_a_run_killed_and_resumed_is_bitwise_the_run_left_alone(name, source, tmp_path, capsys):
    run = one_device(small.run(name, source))
    assert train(run, tmp_path / "whole") == "done"

    with killed_before_saving(8):
        train(run, tmp_path / "parts")
    assert rows(tmp_path / "parts")[-1]["step"] == 8  # rows past the checkpoint of step 4: to be cut off
    assert status(tmp_path / "parts") == "unfinished"
    assert train(run, tmp_path / "parts") == "done"
    assert_same_run(tmp_path / "whole", tmp_path / "parts", run)
    steps = [(row["kind"], row["step"]) for row in rows(tmp_path / "parts")]
    assert len(steps) == len(set(steps))

    # A finished run stays as it is, and its evaluation is what the loop logged.
    before = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert train(run, tmp_path / "whole") == "done" and status(tmp_path / "whole") == "done"
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == before
    logged = [row for row in rows(tmp_path / "whole") if row["kind"] == "evaluation"]
    assert [row["step"] for row in logged] == [0, 4, 8]
    assert logged[-1]["loss"] < logged[0]["loss"]
    every_row = evaluate_run(tmp_path / "whole", "latest", "validation")
    assert every_row["rows"] > 16 and every_row["step"] == 8
    assert evaluate_run(tmp_path / "whole", "best", "validation")["loss"] == every_row["loss"]

    # Flip a bit in the newest checkpoint: the one before it is used, and the run says so.
    damaged = next(p for p in sorted((tmp_path / "parts" / "checkpoints" / "8").rglob("*")) if p.stat().st_size > 4000 and p.is_file())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert load_run(tmp_path / "parts").step == 4
    assert "is damaged (its hash differs): restored step 4 instead" in capsys.readouterr().err
    (tmp_path / "parts" / "checkpoints" / "4" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="checkpoint of step 8 cannot be used.*step 4 cannot be used.*start anew"):
        load_run(tmp_path / "parts")


def test_another_configuration_is_refused_with_the_difference(source, tmp_path):
    run = one_device(small.run("causal", source, steps=2, save_every=0))
    assert train(run, tmp_path / "run") == "done"
    changed = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=0.5), steps=3)
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.001 -> 0.5; steps: 2 -> 3.*--allow-changes"):
        train(changed, tmp_path / "run")
    with alone(tmp_path / "run", "another train"), pytest.raises(UserError, match="another train is writing"):
        train(changed, tmp_path / "run", allow_changes=True)
    assert logs.read_run(tmp_path / "run")["configuration"] == to_json(run)
    assert train(changed, tmp_path / "run", allow_changes=True) == "done"
    assert [row["step"] for row in rows(tmp_path / "run") if row["kind"] == "train"] == [1, 2, 3]
    assert [row["kind"] for row in rows(tmp_path / "run")].count("end") == 1
    record = logs.read_run(tmp_path / "run")
    assert record["configuration"] == to_json(changed) and record["resolved"]["steps"] == 3
    assert record["resumed"][0]["configuration_before"] == to_json(run)
    assert set(record["fingerprints"]) == {"data", "tokenizer", "train", "validation"}
    assert train(changed, tmp_path / "run") == "done"


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(source, tmp_path):
    run = one_device(small.run("causal", source, save_every=1))
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=1e30, clip=0.0))
    with pytest.raises(Diverged, match=r"step \d: loss .* \(seed 0, rows source:row 0:\d+.*not applied and not saved"):
        train(run, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        kept = checkpoints.latest()
    state = final(tmp_path, run)
    assert int(state.step) == kept and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.trainable))


def test_epochs_and_minutes_become_steps_that_are_recorded(source, tmp_path):
    run = one_device(small.run("causal", source, steps=0, epochs=0.1, save_every=0))
    assert train(run, tmp_path / "epochs") == "done"
    resolved = logs.read_run(tmp_path / "epochs")["resolved"]
    assert resolved["steps"] == rows(tmp_path / "epochs")[-1]["step"] > 0 and resolved["epochs"] == 0
    run = one_device(small.run("causal", source, steps=0, minutes=0.002, save_every=0))
    assert train(run, tmp_path / "minutes") == "done"
    assert logs.read_run(tmp_path / "minutes")["resolved"]["steps"] == rows(tmp_path / "minutes")[-1]["step"] > 0


# --- slow: real processes and real signals ----------------------------------------------------------------------------


def launch(experiment, folder, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "research", "train", str(experiment), "--out", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder, step):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (folder / "checkpoints" / str(step) / "manifest.json").exists():
            return
        time.sleep(0.01)
    raise TimeoutError(f"no checkpoint of step {step}")


@pytest.mark.slow
@pytest.mark.parametrize("name", small.PRESETS)
def test_sigkill_and_another_process_resume_bitwise(name, source, tmp_path):
    experiment = small.experiment(name, source, tmp_path / "experiment.py", steps=400, save_every=40, evaluate_every=200)
    whole = launch(experiment, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    killed = launch(experiment, tmp_path / "parts")
    wait_for_step(tmp_path / "parts", 40)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and status(tmp_path / "parts") == "unfinished"
    resumed = launch(experiment, tmp_path / "parts")
    assert resumed.wait() == 0, resumed.stderr.read()
    run = one_device(small.run(name, source, steps=400, save_every=40, evaluate_every=200))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", run)


@pytest.mark.slow
@pytest.mark.parametrize("name", small.PRESETS)
def test_four_devices_go_on_where_one_stopped(name, source, tmp_path):
    fields = {"steps": 28, "save_every": 8, "evaluate_every": 0, "keep": 10}
    one = launch(small.experiment(name, source, tmp_path / "experiment.py", **fields), tmp_path / "one")
    assert one.wait() == 0, one.stderr.read()
    recorded = logs.read_run(tmp_path / "one")
    run = dataclasses.replace(small.run(name, source, **fields), mesh=Mesh(data=4))
    from research.config import from_json

    session = open_session(run, from_json(recorded["resolved"]))
    alone = open_session(one_device(run), from_json(recorded["resolved"]))
    with Checkpoints(tmp_path / "one" / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore(session.trainer.shapes, 8)
        same, _ = checkpoints.restore(alone.trainer.shapes, 8)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(same))
    logged = {row["step"]: row["loss"] for row in rows(tmp_path / "one") if row["kind"] == "train"}
    for step in range(8, 28):
        state, found = session.trainer.update(state, session.trainer.place(session.training.batch(step)))
        np.testing.assert_allclose(float(found["loss"]), logged[step + 1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_its_own_code_and_a_second_ends_at_once(number, source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py", steps=100_000, save_every=20)
    process = launch(experiment, tmp_path / "run")
    wait_for_step(tmp_path / "run", 20)
    process.send_signal(number)
    assert process.wait() == 75
    stopped = rows(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / str(stopped) / "manifest.json").exists()
    again = launch(experiment, tmp_path / "run")
    wait_for_step(tmp_path / "run", stopped // 20 * 20 + 20)
    again.send_signal(number)
    while "stopping after this step" not in again.stderr.readline():
        pass
    again.send_signal(number)
    assert again.wait() in (75, 128 + number)  # 75 where the save was faster than the second signal
    json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_run_ends_where_its_patience_does_also_if_it_is_killed_there(source, tmp_path, monkeypatch):
    run = one_device(small.run("causal", source, evaluate_every=1, save_every=0, patience=2))
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=1e-12))  # nothing improves

    class Fatal(loop.metrics.Metrics):
        def write(self, row):
            if row["kind"] == "end":
                raise Killed
            super().write(row)

    with monkeypatch.context() as patched:
        patched.setattr(loop.metrics, "Metrics", Fatal)
        with pytest.raises(Killed):
            train(run, tmp_path)
    assert status(tmp_path) == "unfinished" and train(run, tmp_path) == "done"
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "evaluation"] == [0, 1, 2]
    assert rows(tmp_path)[-1] | {"elapsed": 0} == {"kind": "end", "step": 2, "tokens": 512, "elapsed": 0}
    assert load_run(tmp_path).step == 2 and status(tmp_path) == "done"


def test_a_best_by_that_no_evaluation_has_is_refused_before_training(source, tmp_path):
    with pytest.raises(UserError, match="best_by is f1, but evaluations have loss, .*: choose one of them"):
        train(one_device(small.run("causal", source, best_by="f1")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_counts_evaluations_since_the_best():
    assert not loop.out_of_patience([3.0, 1.0, 2.0], 2) and loop.out_of_patience([3.0, 1.0, 2.0, 1.0], 2)
    assert not loop.out_of_patience([3.0, 3.0, 3.0], 0)
    with pytest.raises(UserError, match="best_by is f1, but evaluations have loss, accuracy"):
        loop.cost_of(small.run("causal", "x", best_by="f1"), {"loss": 1.0, "accuracy": 0.5, "scored": 3})
    assert loop.cost_of(small.run("causal", "x", best_by="accuracy"), {"accuracy": 0.5}) == -0.5
    assert loop.cost_of(small.run("causal", "x", best_by="mean_squared_error"), {"mean_squared_error": 9.0}) == 9.0
    assert loop.cost_of(small.run("causal", "x", best_by="pearson"), {"loss": 1.0, "pearson": None}) == float("inf")
    with pytest.raises(UserError, match="best_by is unigram_loss"):
        loop.cost_of(small.run("causal", "x", best_by="unigram_loss"), {"loss": 1.0, "unigram_loss": 2.0})


@pytest.mark.slow
def test_a_second_start_compiles_nothing(source, tmp_path):
    experiment = small.experiment("causal", source, tmp_path / "experiment.py")
    environment = {**os.environ, "TERCET_CACHE": str(tmp_path / "cache")} | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def programs(out):
        command = [sys.executable, "-m", "research", "train", str(experiment), "--out", str(tmp_path / out)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=200)
        return {path.name: path.read_bytes() for path in (tmp_path / "cache" / "compiled").rglob("*-cache")}

    first = programs("one")
    assert any(name.startswith("jit_update") for name in first)
    assert programs("two") == first
