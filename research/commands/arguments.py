"""The arguments of small commands: argparse whose complaints are one line; and the folder that a command writes to."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys
import tempfile
from typing import NoReturn

from research.types import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UserError, names the nearest flag and takes no abbreviations."""

    def __init__(self, command: str, description: str, **options) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(f"python -m research {command}", description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage and leaving the process."""
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Return the parsed `arguments`.

        Raises:
            UserError: A flag is unknown (the nearest is suggested), misses its value, or has a wrong one.
        """
        values, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            what = "flag" if unknown[0].startswith("-") else "argument"
            raise UserError(f"unknown {what} {unknown[0]}{did_you_mean(unknown[0].split('=')[0], flags)}")
        return values


def take(arguments: list[str], flag: str, anything: bool = False) -> tuple[str | None, list[str]]:
    """Return the value of `flag` (None where it is absent) and the arguments without it.

    With `anything` the value may be empty or look like a flag, as a text may.

    Raises:
        UserError: The flag is given twice or without a value.
    """
    value, rest, left = None, [], iter(arguments)
    for argument in left:
        name, equals, given = argument.partition("=")
        if name.replace("_", "-") != flag:
            rest.append(argument)
            continue
        if value is not None:
            raise UserError(f"{flag} is given twice")
        value = given if equals else next(left, None)
        if value is None or (not anything and (not value or value.startswith("--"))):
            raise UserError(f"{flag} needs a value")
    return value, rest


def switch(arguments: list[str], flag: str) -> tuple[bool, list[str]]:
    """Return whether `flag`, which takes no value, is given, and the arguments without it."""
    rest = [argument for argument in arguments if argument.replace("_", "-") != flag]
    return len(rest) < len(arguments), rest


def prefixed(prefix: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags that begin with `prefix`, with their values, and the other arguments."""
    found, rest = [], []
    words = iter(arguments)
    for word in words:
        if word.startswith(prefix):
            found += [word] if "=" in word else [word, *itertools.islice(words, 1)]
        else:
            rest.append(word)
    return found, rest


def texts(prompt: str | None, file: str | None) -> list[str]:
    """Return the one `prompt`, or the lines of `file`, or those of standard input where neither is given.

    Raises:
        UserError: Both are given; the file cannot be read, or is not UTF-8; or there is no line.
    """
    if prompt is not None and file is not None:
        raise UserError("--prompt and --file are given: leave one out")
    if prompt is not None:
        return [prompt]
    if file is None and sys.stdin.isatty():
        raise UserError("no text: give --prompt TEXT, --file FILE, or lines on standard input")
    name = file or "standard input"
    try:
        data = pathlib.Path(file).read_bytes() if file else sys.stdin.buffer.read()
        lines = data.decode("utf-8").removesuffix("\n").split("\n") if data else []
        lines = [line.removesuffix("\r") for line in lines]  # splitlines() would also split at U+2028 and form feeds
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}: check the path") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8: convert it, for example with iconv") from None
    if not lines:
        raise UserError(f"{name} has no line: write one prompt a line")
    return lines


CHECKPOINTS = "best (by its evaluations; latest where there are none), latest, a step, or average:N (the newest N)"


def checkpoint(name: str) -> str:
    """Return `name` if it can name a checkpoint.

    Raises:
        UserError: It cannot; says what can.
    """
    if name not in ("best", "latest") and not name.removeprefix("average:").isdecimal():
        raise UserError(f"--checkpoint: {name!r} is not {CHECKPOINTS}")
    return name


def check_writable(folder: pathlib.Path, flag: str = "--out") -> None:
    """Refuse an output folder that cannot be made or written to; nothing is left behind.

    Raises:
        UserError: Names the folder and the system's reason.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        at = "" if existing == folder else f" ({existing})"
        raise UserError(f"cannot write to {flag} {folder}{at}: {error.strerror}; choose another folder") from None
