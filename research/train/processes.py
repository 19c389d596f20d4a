"""Several processes that train as one: they agree on what only process 0 knows, read their own rows, and end together.

Process 0 alone writes and prints; the others do the same computations and are silent but for errors. What only process
0 can know (a file, a clock, a signal) it tells through JAX's coordination service. In one process all of this is
nothing: `agreed` calls its function.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import jax
import numpy as np

from research.train import launchers
from research.train.launchers import Processes
from research.train.peers import Watch, client, gather, relay
from research.train.sharding import batch_sharding
from research.types import Record, UserError

Value = TypeVar("Value")

STOP = "tercet/stop/"  # folder of the service's keys: who was told to stop
STOP_EVERY = 2.0  # seconds between two looks at whether a process was told to stop: each waits for process 0

_watch: Watch | None = None
_turns: collections.Counter[str] = collections.Counter()


def first() -> bool:
    """Return whether this is process 0, which alone writes and prints."""
    return jax.process_index() == 0


def agreed(name: str, make: Callable[[], Value]) -> Value:
    """Return what `make` returns in process 0, in every process; called by all, in the same order.

    The value is one that JSON has, of at most a megabyte. It costs a round trip, and the others wait for process 0.
    """
    if jax.process_count() == 1:
        return make()
    key = _key(name)
    if first():
        client().key_value_set(key, json.dumps(make()))
    return json.loads(_get(key))


def gathered(name: str, make: Callable[[], Value]) -> list[Value]:
    """Return what `make` returns in each process, in all of them, once all have called this."""
    if jax.process_count() == 1:
        return [make()]
    key = _key(name)
    client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(make()))
    return agreed(name, lambda: [json.loads(_get(f"{key}/{index}")) for index in range(jax.process_count())])


@contextlib.contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Let process 0 go through the body first, and the others together after it: they find what it has written."""
    if not first():
        agreed(name, lambda: None)
    yield
    if first():
        agreed(name, lambda: None)


def check_shared(folder: pathlib.Path) -> None:
    """Refuse an output folder that is another in another process: checkpoints are written by all into one.

    Raises:
        UserError: A file that process 0 makes there, or in the nearest folder above that exists, is not seen in a
            process; or what is yet to be made below has other names; or it cannot be made.
    """
    if jax.process_count() == 1:
        return
    with contextlib.ExitStack() as stack:

        def make() -> tuple[int, list[str], str]:
            up, there = next((up, path) for up, path in enumerate(folders) if path.exists())
            try:
                made = stack.enter_context(tempfile.NamedTemporaryFile(dir=there, prefix=".seen-by-all-"))
            except OSError as error:
                raise UserError(f"--out {folder}: nothing can be written to {there} ({error.strerror})") from None
            return up, below(up), pathlib.Path(made.name).name

        def below(up: int) -> list[str]:
            return [path.name for path in folders[:up]]

        def seen() -> bool:
            if up >= len(folders) or below(up) != names:
                return False
            deadline = time.monotonic() + 30  # NFS may remember for so long what there was
            while not (folders[up] / name).exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            return (folders[up] / name).exists()

        folders = [folder.absolute(), *folder.absolute().parents]  # of this process, which may reach the same otherwise
        up, names, name = agreed("folder", make)
        blind = [str(index) for index, sees in enumerate(gathered("folder", seen)) if not sees]
    if blind:
        what = f"--out {folder} in process {', '.join(blind)} is not the folder of process 0"
        fail_together(UserError(f"{what}: give one that all hosts share"))


class Stop:
    """Says after which step all processes stop, since one was told to: the same step in all of them.

    They ask one another every STOP_EVERY seconds or after every step, whatever is longer: process 0 says when next.
    """

    def __init__(self) -> None:
        self.next, self.seen, self.asked = 0, (0, 0.0), False

    def __call__(self, step: int, wanted: bool) -> bool:
        """Return whether to stop after `step`; `wanted` is whether this process was told to."""
        if jax.process_count() == 1:
            return wanted
        if wanted and not self.asked:
            client().key_value_set(f"{STOP}{jax.process_index()}", "")
            self.asked = True
        if step < self.next:
            return False
        stop, self.next = agreed("stopping", lambda: (bool(client().key_value_dir_get(STOP)), self._next(step)))
        if first() and (old := _turns["stopping"] - 2) > 0:  # all are past the step before this, and have read that
            client().key_value_delete(f"tercet/stopping/{old}")
        return stop

    def _next(self, step: int) -> int:
        (before, then), now = self.seen, time.monotonic()
        self.seen = step, now
        return step + max(1, int((step - before) / (now - then) * STOP_EVERY)) if then else step + 1


def fail_together(error: UserError) -> NoReturn:
    """Raise `error`, which every process has found at the same step; process 0 alone tells of it, in its words."""
    if _watch:
        _watch.known = agreed("error", lambda: str(error))
        gathered("error", lambda: None)
    raise error


# --- rows -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def own_rows(mesh: jax.sharding.Mesh, size: int) -> slice:
    """Return which of `size` rows of a batch lie on the devices of this process."""
    places = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    spans = [index[0].indices(size) for index in places]
    return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))


def placed(mesh: jax.sharding.Mesh, record: Record, size: int = 0) -> Record:
    """Return host rows on the mesh: all rows of a batch, or, of a batch of `size`, the `own_rows` of this process."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(record, sharding)
    begin = own_rows(mesh, size).start if size else 0

    def place(rows: np.ndarray) -> jax.Array:
        shape = (size or len(rows), *rows.shape[1:])

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return np.asarray(rows[start - begin : stop - begin])

        return jax.make_array_from_callback(shape, sharding, shard)

    return jax.tree.map(place, record)


# --- beginning and ending ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """Make this process one of several for the body, where it is; must come before JAX looks for devices.

    An error in the body ends all processes, this one within the context, so that nothing waits for the others.

    Raises:
        UserError: As `launchers.place` and `peers.gather`.
    """
    global _watch
    place = launchers.place(processes, os.environ)
    if place is None:
        yield
        return
    gather(place, processes.wait)
    _watch = Watch(place, processes.heartbeat)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which the loop answers
    jax.distributed.initialize(
        relay(place.address, _watch.lost) if place.index else place.address,
        place.count,
        place.index,
        place.devices,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=int(3 * processes.heartbeat) + 60,  # the watch is to be first: it says who
    )
    _watch.start()
    try:
        with _silence(place.index > 0):
            yield
            gathered("end", lambda: None)
    except BaseException as error:
        _watch.fail(error)
    _watch.stop()
    jax.distributed.shutdown()
    _watch = None


@contextlib.contextmanager
def _silence(others: bool) -> Iterator[None]:
    """Keep what C++ prints (gloo, of its connections) off standard output, and the `others` wholly silent."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere, os.fdopen(kept, "w", encoding=sys.stdout.encoding) as shown:
        os.dup2(nowhere.fileno(), 1)
        out, err = (nowhere, nowhere) if others else (shown, sys.stderr)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            shown.flush()
            os.dup2(kept, 1)


def _key(name: str) -> str:
    _turns[name] += 1
    return f"tercet/{name}/{_turns[name]}"


def _get(key: str) -> str:
    """Return the value of `key` as soon as there is one; in short waits, between which Ctrl-C is heard."""
    while True:
        try:
            return client().blocking_key_value_get(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("DEADLINE_EXCEEDED"):
                raise
