"""Another program's side of a comparison, in a process of its own that never outlives ours."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from experiments.work import Work
from research.types import UserError, did_you_mean

STACKS = ("torch", "torch-compile")


class Peer(NamedTuple):
    """A program that does the same work as we do."""

    about: dict[str, Any]  # what it says of itself: parameters, targets, versions, memory
    steps: Callable[[int], list[float]]  # number of updates -> the seconds of each


@contextlib.contextmanager
def peer(named: str, work: Work, device: str) -> Iterator[Peer]:
    """Yield the peer of that name once it is ready.

    Args:
        named: One of STACKS; or NAME=COMMAND, a program that is started anew for every turn and whose last line is JSON
            that holds `step_s`, the seconds of an update. {objective}, {batch} and the other fields of `Work` in
            COMMAND stand for those of the work.
        work: What is to be done.
        device: cpu or cuda.

    Raises:
        UserError: It is not there, or ended by itself; one line says why.
    """
    check(named)
    name, _, command = named.partition("=")
    if command:
        yield by_command(name, words(command, work))
        return
    asked = json.dumps({"stack": name, "work": dataclasses.asdict(work), "device": device})
    with Process(name, [sys.executable, "-m", "experiments.bench_torch", asked]) as process:
        about = process.answer()

        def steps(count: int) -> list[float]:
            process.ask(str(count))
            found = process.answer()
            about.update((key, value) for key, value in found.items() if key != "seconds")
            return found["seconds"]

        yield Peer(about, steps)


def check(named: str) -> None:
    """Refuse a peer that cannot be there.

    Raises:
        UserError: It is neither a known one nor a command, or is not installed.
    """
    name, equals, command = named.partition("=")
    if equals and not (name and command.strip()):
        raise UserError(f"--peer {named} is no NAME=COMMAND: give both")
    if not equals and name not in STACKS:
        raise UserError(f"--peer {name} is neither {' nor '.join(STACKS)} nor NAME=COMMAND{did_you_mean(name, STACKS)}")
    if not equals and importlib.util.find_spec("torch") is None:
        raise UserError(f"--peer {name} needs PyTorch, which is not installed: pip install torch")


def words(command: str, work: Work) -> list[str]:
    """Return the words of `command` with the fields of `work` in their places.

    Raises:
        UserError: It names a field that work has not, or its quotes are not closed.
    """
    fields = dataclasses.asdict(work) | {"targets": work.scored}
    try:
        return [word.format(**fields) for word in shlex.split(command)]
    except KeyError as error:
        known = ", ".join(fields)
        raise UserError(f"--peer names {{{error.args[0]}}}, which the work has not: it has {known}") from None
    except (ValueError, IndexError) as error:
        raise UserError(f"--peer {command!r} is no command: {error}") from None


def by_command(name: str, arguments: list[str]) -> Peer:
    """Return a peer that does its work anew in each turn, whatever number of updates it is asked for."""
    about: dict[str, Any] = {}

    def steps(_: int) -> list[float]:
        with Process(name, arguments) as process:
            found = process.last_answer()
        if not isinstance(found.get("step_s"), int | float):
            raise UserError(f"the peer {name} ended without a line of JSON that holds step_s")
        about.update((key, found[key]) for key in ("parameters", "targets", "memory", "versions") if key in found)
        return [found["step_s"]]

    return Peer(about, steps)


class Process:
    """A program that is asked in lines and answers in lines of JSON, among others that are passed over."""

    def __init__(self, name: str, arguments: list[str]):
        self._name = name
        self._errors = tempfile.TemporaryFile()  # not a pipe, which would have to be emptied while it runs
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:  # a session of its own: Ctrl-C reaches us alone, and we end it with all that it has started
            self._process = subprocess.Popen(arguments, text=True, start_new_session=True, **pipes)
        except OSError as error:
            self._errors.close()
            raise UserError(f"the peer {name} cannot be started: {arguments[0]}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it has nothing to save
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._errors.close()

    def ask(self, text: str) -> None:
        """Send a line; what has ended is noticed when it is to answer."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next line that is a JSON object.

        Raises:
            UserError: The process ended before there was one.
        """
        for line in self._process.stdout:
            if (found := as_object(line)) is not None:
                return found
        raise UserError(self._death())

    def last_answer(self) -> dict[str, Any]:
        """Return the last line that is a JSON object, once the process has ended; empty if there is none.

        Raises:
            UserError: It ended with a status that is not 0.
        """
        self._process.stdin.close()
        found = [row for line in self._process.stdout if (row := as_object(line)) is not None]
        if self._process.wait():
            raise UserError(self._death())
        return found[-1] if found else {}

    def _death(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the peer {self._name} {how}: {said}"


def as_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object that `line` is, or None."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
