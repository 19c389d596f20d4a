"""Real processes that train as one over the loopback interface, each with devices of its own."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEARTBEAT = 6.0  # seconds: short, and long enough for a machine that does other things too


def free_port() -> int:
    """Return a port that nothing listens to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Several:
    """`count` processes of one command; what each prints is read when it has ended.

    Args:
        folder: Where their output is kept.
        command: The command and its arguments, without those that tell the processes apart; or one such list a process.
        devices: Emulated devices of each process.
        started: Which of the processes are started at all; all of them if not given.
    """

    def __init__(self, folder, command, count=2, devices=1, started=None, heartbeat=HEARTBEAT, wait=60, port=None):
        self.port = port or free_port()
        self.processes, self.outputs = {}, {}
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        for index in range(count) if started is None else started:
            own = command[index] if isinstance(command[0], list) else command
            place = f"--processes.address=127.0.0.1:{self.port} --processes.count={count} --processes.index={index}"
            times = f"--processes.heartbeat={heartbeat} --processes.wait={wait}"
            words = [sys.executable, "-m", "research", *map(str, own), *place.split(), *times.split()]
            self.outputs[index] = [folder / f"{self.port}-{index}.{name}" for name in ("out", "err")]
            with open(self.outputs[index][0], "w") as out, open(self.outputs[index][1], "w") as err:
                self.processes[index] = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=err)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def wait(self, timeout=300):
        """Return the exit status of each process, once all have ended."""
        deadline = time.monotonic() + timeout
        return [process.wait(deadline - time.monotonic()) for process in self.processes.values()]

    def said(self, index, what="err"):
        """Return what a process has printed so far, without what JAX says of its own accord."""
        path = self.outputs[index][("out", "err").index(what)]
        return path.read_text()

    def until(self, true, timeout=240):
        """Return once `true()`; fail as soon as a process has ended before that."""
        deadline = time.monotonic() + timeout
        while not true():
            for index, process in self.processes.items():
                if process.poll() is not None and not true():
                    raise AssertionError(f"process {index} ended ({process.returncode}): {self.said(index)}")
            if time.monotonic() > deadline:
                raise TimeoutError(str([self.said(index) for index in self.processes]))
            time.sleep(0.02)
