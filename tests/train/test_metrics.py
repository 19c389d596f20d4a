"""metrics.jsonl survives kills and resumes without a step twice; run.json says everything."""

import json
import math
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.train import metrics
from research.report.logs import read, read_run
from research.train.metrics import Metrics, describe
from research.types import UserError


def rows(*steps: int) -> list[dict]:
    return [{"step": step, "loss": 1 / (step + 1)} for step in steps]


def write(folder, wanted) -> None:
    with Metrics(folder) as log:
        for row in wanted:
            log.write(row)


def test_rows_come_back_as_written_and_numbers_exactly(tmp_path):
    loss = np.float32(2) / 3
    row = {"step": 1, "loss": loss, "jax": jnp.float32(loss), "half": jnp.bfloat16(1.5), "n": np.int64(3), "why": "\n"}
    write(tmp_path, [row])
    assert read(tmp_path) == [{**row, "loss": float(loss), "jax": float(loss), "half": 1.5, "n": 3}]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_numbers_that_json_lacks_are_null(tmp_path):
    write(tmp_path, [{"step": 1, "a": math.nan, "b": np.float32("inf"), "c": [jnp.float32("-inf"), 1.0]}])
    found = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert found == {"step": 1, "a": None, "b": None, "c": [None, 1.0]}


def test_each_row_is_on_the_disk_at_once(tmp_path):
    with Metrics(tmp_path) as log:
        for count, row in enumerate(rows(1, 2, 3), 1):
            log.write(row)
            assert len(read(tmp_path)) == count


@settings(max_examples=25, deadline=None)
@given(lost=st.integers(1, 60))
def test_a_torn_last_line_is_ignored_and_then_cut(tmp_path_factory, lost):
    folder = tmp_path_factory.mktemp("torn")
    write(folder, rows(1, 2, 3))
    path = folder / "metrics.jsonl"
    text = path.read_bytes()[:-lost]
    path.write_bytes(text)
    whole = text.count(b"\n")
    assert read(folder) == rows(1, 2, 3)[:whole]
    write(folder, rows(9))
    assert read(folder) == rows(1, 2, 3)[:whole] + rows(9)


def test_a_broken_line_elsewhere_is_an_error_naming_it(tmp_path):
    write(tmp_path, rows(1, 2, 3))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"step" 2'))
    with pytest.raises(UserError, match=r"metrics.jsonl:2 is not a JSON object"):
        read(tmp_path)
    with pytest.raises(UserError, match="give the folder of a run"):
        read(tmp_path / "absent")


def test_resuming_leaves_no_step_twice(tmp_path):
    write(tmp_path, rows(0, 10, 20, 20, 30))
    with Metrics(tmp_path) as log:
        log.cut(20)
        for row in rows(30, 40):
            log.write(row)
        log.cut(30)
        log.write(rows(40)[0])
    assert read(tmp_path) == rows(0, 10, 20, 20, 30, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        Metrics(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="choose another --out"):
        describe(tmp_path / "file" / "run", {})


def test_the_mirror_is_told_what_to_hide(tmp_path, monkeypatch):
    """What a resumed run writes past the checkpoint replaces what was there."""
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            calls.append(("open", purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    with Metrics(tmp_path, tensorboard=True) as log:
        log.write({"kind": "train", "step": 10, "loss": 2.0, "why": "text", "gone": math.nan})
        log.cut(5)
        log.write({"step": 10, "loss": 1.0})
    assert calls == [("open", None), ("train/loss", 2.0, 10), ("open", 6), ("loss", 1.0, 10)]
    assert read(tmp_path) == [{"step": 10, "loss": 1.0}]


def test_real_event_files(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is an optional dependency")
    with Metrics(tmp_path, tensorboard=True) as log:
        log.write({"step": 1, "loss": 2.0})
        log.cut(0)
        log.write({"step": 1, "loss": 1.0})
    assert len(list((tmp_path / "tensorboard").iterdir())) >= 1


def test_without_tensorboard_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        Metrics(tmp_path, tensorboard=True)
    write(tmp_path, rows(1))  # not looked for unless asked


def test_run_json_says_everything(tmp_path):
    written = describe(
        tmp_path / "run",
        {"seed": 0, "optimizer": {"learning_rate": 1e-3}},
        mesh={"data": 1, "fsdp": 1, "tensor": 1},
        fingerprints={"data": "d1", "tokenizer": "t1"},
        parameters=42,
    )
    found = read_run(tmp_path / "run")
    assert found == written
    assert found["configuration"]["optimizer"] == {"learning_rate": 1e-3}
    assert found["versions"]["python"] == sys.version.split()[0] and found["versions"]["jax"]
    assert set(metrics.PACKAGES) < set(found["versions"])
    assert found["devices"]["count"] >= 1 and found["devices"]["platform"] and found["cores"] >= 1
    assert found["mesh"]["data"] == 1 and found["fingerprints"]["data"] == "d1" and found["parameters"] == 42
    assert found["started"].startswith("20") and found["resumed"] == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_resuming_is_recorded_beside_the_first_start(tmp_path):
    first = describe(tmp_path, {"steps": 5}, parameters=42)
    second = describe(tmp_path, {"steps": 9}, step=5, parameters=42)
    assert second["started"] == first["started"] and second["parameters"] == 42
    assert second["configuration"] == {"steps": 9}
    assert [start["step"] for start in second["resumed"]] == [5] and second["resumed"][0]["devices"]
    assert len(describe(tmp_path, {"steps": 9}, step=9)["resumed"]) == 2
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="run.json is not JSON"):
        describe(tmp_path, {}, step=9)


def test_the_command_line_is_kept_where_it_is_ours(tmp_path, monkeypatch):
    assert describe(tmp_path, {})["command"] is None
    monkeypatch.setattr(sys, "argv", ["/somewhere/research/__main__.py", "train", "a b.py", "--steps", "9"])
    assert describe(tmp_path, {})["command"] == "python -m research train 'a b.py' --steps 9"
    monkeypatch.setattr(sys, "argv", ["/somewhere/research/__main__.py", "train", "a b.py"])
    resumed = describe(tmp_path, {}, step=5)
    assert resumed["command"].endswith("--steps 9") and resumed["resumed"][0]["command"].endswith("'a b.py'")


def test_git_commit_and_dirt(tmp_path):
    assert metrics.git(tmp_path) is None

    def run(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    run("init")
    (tmp_path / "a").write_text("1")
    run("add", "a")
    run("commit", "-m", "a")
    found = metrics.git(tmp_path)
    assert len(found["commit"]) == 40 and found["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert metrics.git(tmp_path)["dirty"] is True
