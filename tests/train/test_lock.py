"""One writer at a time, also of several processes; what is left of a killed one holds nothing."""

import signal
import subprocess
import sys

import pytest

from research.train import lock
from research.train.lock import alone
from research.types import UserError

HOLDER = """
import pathlib, sys, time
from research.train.lock import alone
with alone(pathlib.Path(sys.argv[1]), "this"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"another train is writing {tmp_path}: wait for it, or choose another --o"):
            alone(tmp_path, "another train").__enter__()
        holder.send_signal(signal.SIGKILL)
    with alone(tmp_path, "another train"):
        assert list(tmp_path.iterdir()) == []


def test_what_was_renamed_meanwhile_is_not_held(tmp_path, monkeypatch):
    path = tmp_path / "a.partial"
    with pytest.raises(UserError, match="another predict has just ended with"), alone(path, "another predict"):
        pass
    path.touch()
    real = lock.fcntl.flock
    monkeypatch.setattr(lock.fcntl, "flock", lambda *rest: (path.rename(tmp_path / "a"), path.touch(), real(*rest)))
    with pytest.raises(UserError, match="another predict has just ended with"), alone(path, "another predict"):
        pass
