"""The other processes of a run: waiting for them to come, saying that this one is alive, ending when one of them is not.

JAX would do all three, but where a process is missing or gone it ends the others with many lines that name nobody, and a
collective with a traceback. Here all are told in one line, and only then does anything end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from research.train.launchers import Place
from research.types import UserError

# Folders of keys of JAX's coordination service, which process 0 hosts: who is alive; why all end, as the first to write
# it says; and who has told its user so.
ALIVE, VERDICT, TOLD = "tercet/alive/", "tercet/verdict/", "tercet/told/"
GREETING = "tercet"  # begins each line of `gather`: JAX's service of a run that is about to end may still have the port
GRACE = 3.0  # seconds that process 0, whose end is that of the service, waits for the others to have told
GO_ON = "start all of them again: a run goes on from its last checkpoint"
# What XLA and the service say of a collective, a barrier or a call whose other end is gone.
OF_PEERS = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION)\b")


def gather(place: Place, wait: float) -> None:
    """Return once all processes have come to process 0, which listens where JAX's service will.

    Raises:
        UserError: One did not come within `wait` seconds, or thinks of another count; all that have come are told.
    """
    said = _listen(place, time.monotonic() + wait) if place.index == 0 else _call(place, time.monotonic() + wait)
    if said != "go":
        raise UserError(f"{said} (processes.wait is {wait:g} s)")


def _listen(place: Place, deadline: float) -> str:
    """Return "go" once all have come, or what is wrong; what is returned is what they are told."""
    port, came, said = split(place.address)[1], {}, ""
    both = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"processes.address: port {port} cannot be used here ({error.strerror}): choose another") from None
    with server:
        while not said:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            with contextlib.suppress(OSError, ValueError):  # nobody for so long, or somebody else's call
                link, _ = server.accept()
                link.settimeout(GRACE)
                word, *numbers = link.makefile().readline().split()
                index, count = map(int, numbers)
                if word == GREETING:
                    came[index] = link
                    if count != place.count:
                        others = f"{count} in process {index}: give all the same"
                        said = f"processes.count is {place.count} in process 0 and {others}"
            came = {index: link for index, link in came.items() if not _closed(link)}
            missing = [str(index) for index in range(1, place.count) if index not in came]
            if not missing:
                said = said or "go"
            elif time.monotonic() > deadline:
                said = f"process {', '.join(missing)} of {place.count} did not come to {place.address}: start all of them"
    for link in came.values():
        with link, contextlib.suppress(OSError):
            link.settimeout(GRACE)
            link.sendall(f"{GREETING} {said}\n".encode())
    return said


def _closed(link: socket.socket) -> bool:
    """Return whether the other end, which says nothing more once it has come, is gone."""
    link.setblocking(False)
    try:
        return not link.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _call(place: Place, deadline: float) -> str:
    """Return what process 0 says when it has heard of all."""
    while True:
        try:
            with socket.create_connection(split(place.address), timeout=max(0.01, deadline - time.monotonic())) as link:
                link.sendall(f"{GREETING} {place.index} {place.count}\n".encode())
                link.settimeout(max(0.0, deadline - time.monotonic()) + GRACE)
                word, _, said = link.makefile(errors="replace").readline().strip().partition(" ")
                if word == GREETING:
                    return said
                raise OSError("something else answers" if word else "it closed the connection")
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or error
                return f"process 0 did not answer at {place.address} ({why}): start it, or mend processes.address"
            time.sleep(0.2)


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of an address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def relay(address: str, lost: Callable[[], None]) -> str:
    """Return an address of this machine behind which that of process 0 is, and which stays open when that closes.

    When its connection to process 0 closes, JAX's client ends the process at once, and cannot be told otherwise. Behind
    a relay it never sees that: `lost` is called instead.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def forward(source: socket.socket, target: socket.socket, closed: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        closed()

    def serve() -> None:
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(split(address))
            except OSError:  # process 0 is not yet listening: JAX's client tries again
                near.close()
                continue
            threading.Thread(target=forward, args=(near, far, far.close), daemon=True).start()
            threading.Thread(target=forward, args=(far, near, lost), daemon=True).start()

    threading.Thread(target=serve, name="relay", daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


class Watch:
    """Says that this process is alive, listens for the others, and ends this process when one of them is gone.

    Process 0 hears all, the others hear process 0 and read its verdict. One thread talks to the service, where a call may
    hang; another judges by what the first has heard, and counts no silence that was its own.
    """

    def __init__(self, place: Place, heartbeat: float):
        self.place, self.heartbeat = place, heartbeat
        self.every = min(1.0, heartbeat / 10)  # a death goes by way of process 0: what it takes to hear comes twice
        self.over = threading.Event()
        self.known: str | None = None  # an error that all processes have found: process 0 tells it for all
        self._heard: dict[str, str] = {}  # {key: 'host beat'}
        self._verdict: dict[str, Any] | None = None
        self._gone: list[int] = []
        self._ending = threading.Lock()  # taken by who ends the process, and never released

    def start(self) -> None:
        """Begin; the service is there."""
        self._threads = [threading.Thread(target=run, name="watch", daemon=True) for run in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the watch, before the service does: a thread that is in a call when Python ends takes the process down."""
        self.over.set()
        for thread in self._threads:
            thread.join(GRACE)

    def lost(self) -> None:
        """End this process: the connection to process 0 is closed."""
        self.over.wait(self.every)  # at the end of all it closes too, and the verdict may be on its way
        if not self.over.is_set():
            self._end(f"process 0 ({self.place.address}) is gone: its connection is closed; {GO_ON}", 1)

    def fail(self, error: BaseException) -> NoReturn:
        """End all processes because of `error` in this one; what comes of another's end is left to the judge."""
        if of_peers(error):
            time.sleep(self.heartbeat + 2 * self.every)
        if isinstance(error, UserError):
            said, status = " ".join(str(error).split("\n")), error.status
        elif isinstance(error, KeyboardInterrupt):
            said, status = "interrupted", 130
        else:
            said, status = f"{type(error).__name__}: {error}".splitlines()[0], 1
            traceback.print_exception(error, file=sys.__stderr__)
        if self.place.index and self.known is not None:
            time.sleep(self.heartbeat)  # the verdict of process 0 ends this one before
        self._publish(said, f"process {self.place.index} ({socket.gethostname()}) ended: {said}", status)
        self._end(said, status)

    def _talk(self) -> None:
        service, host, beat = client(), socket.gethostname(), 0
        while not self.over.wait(self.every if beat else 0):
            beat += 1
            with contextlib.suppress(Exception):  # silence is what the judge goes by
                service.key_value_set(_alive(self.place.index), f"{host} {beat}", allow_overwrite=True)
                heard = service.key_value_dir_get(ALIVE if self.place.index == 0 else f"{ALIVE}0/")
                verdict = service.key_value_dir_get(VERDICT)
                self._heard = dict(heard)
                self._verdict = json.loads(verdict[0][1]) if verdict else None

    def _judge(self) -> None:
        others = range(1, self.place.count) if self.place.index == 0 else range(1)
        silence, last = dict.fromkeys(others, 0.0), {}
        then = time.monotonic()
        while not self.over.wait(self.every / 4):
            now = time.monotonic()
            passed, then = min(now - then, self.every), now
            if self._verdict:
                known = self._verdict["said"] == self.known
                self._end("" if known else self._verdict["told"], self._verdict["status"])
            heard = self._heard
            for index in others:
                beat = heard.get(_alive(index))
                silence[index] = silence[index] + passed if beat == last.get(index) else 0.0
                last[index] = beat
            self._gone = [index for index in others if silence[index] > self.heartbeat]
            if self._gone:
                names = [f"process {index} ({(last[index] or '?').split()[0]})" for index in self._gone]
                said = f"{', '.join(names)} gone: silent for {self.heartbeat:g} s; {GO_ON}"
                self._publish(said, said, 1)
                self._end(said, 1)

    def _publish(self, said: str, told: str, status: int) -> None:
        """Give the others the verdict, unless there is one; without the service they find out for themselves."""
        if 0 not in self._gone:
            with contextlib.suppress(Exception):
                client().key_value_set(f"{VERDICT}0", json.dumps({"said": said, "told": told, "status": status}))

    def _end(self, said: str, status: int) -> NoReturn:
        """Tell why and end this process."""
        self._ending.acquire()
        if said:
            show = "\x1b[?25h\n" if sys.__stderr__.isatty() else ""  # the cursor, which a bar of progress has hidden
            os.write(2, f"{show}error: {said}\n".encode())
        farewell = threading.Thread(target=self._farewell, daemon=True)  # a call to a service that is gone may hang
        farewell.start()
        farewell.join(GRACE)
        os._exit(status)

    def _farewell(self) -> None:
        with contextlib.suppress(Exception):
            client().key_value_set(f"{TOLD}{self.place.index}", "")
            while self.place.index == 0 and len(client().key_value_dir_get(TOLD)) < self.place.count - len(self._gone):
                time.sleep(0.05)


def of_peers(error: BaseException | None) -> bool:
    """Return whether `error`, or what it came of, is what a collective or the service says when a process is gone."""
    while error is not None:
        if OF_PEERS.match(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def client() -> Any:
    """Return the client of JAX's coordination service, which has no public door: Orbax reaches for it likewise."""
    from jax._src import distributed

    return distributed.global_state.client


def _alive(index: int) -> str:
    return f"{ALIVE}{index}/beat"
