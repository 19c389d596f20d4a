"""What every process of a job does, and what is refused of the words that a job is written with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from research.types import UserError

PORT = 8476  # where process 0 is found, unless the system says otherwise


class Work(NamedTuple):
    """One run, as the command line that trains it."""

    name: str  # of the run
    words: tuple[str, ...]  # what follows `python -m research train`: the experiment and its overrides
    out: str  # the run's folder; empty: where the system keeps runs
    made_by: tuple[str, ...]  # the words that this job was asked for with
    again: int  # the exit status that asks for the same command again


def command(python: str, work: Work, out: str) -> list[str]:
    """Return the command of every process."""
    return [python, "-m", "research", "train", *work.words, *([f"--out={out}"] if out else [])]


def explicit(address: str, count: str, index: str) -> list[str]:
    """Return the words that tell a process of the others, where the system does not."""
    return [f"--processes.address={address}", f"--processes.count={count}", f"--processes.index={index}"]


def header(work: Work, send: str) -> list[str]:
    """Return the first comments of a file: how it was made, and how it is sent."""
    said = shlex.join(work.made_by)  # YAML ends a comment at more characters than a line feed
    told = "".join(char if char.isprintable() else repr(char)[1:-1] for char in said)
    return [f"# python -m research {told}", f"# {send}"]


def check_words(words: Iterable[str]) -> None:
    """Refuse words that a script or a comment of one line cannot hold.

    Raises:
        UserError: One has a line break or another control character.
    """
    for word in words:
        if not word.isprintable():
            raise UserError(f"{word!r} has a character that cannot be printed: set such a field in the experiment")


def check_counts(cluster: Any, **least: int) -> None:
    """Raise a UserError unless each field of `cluster` is as large as `least` says."""
    for name, value in least.items():
        if getattr(cluster, name) < value:
            raise UserError(f"--{name} is {getattr(cluster, name)}: it must be {value} or more")


def check_plain(cluster: Any, *names: str) -> None:
    """Raise a UserError where a field of `cluster` is not one word of letters, digits and a few marks."""
    for name in names:
        value = getattr(cluster, name)
        if value and not re.fullmatch(r"[\w.,:@%+=/-]+", value, re.ASCII):
            raise UserError(f"--{name} is {value!r}: it must be one word of letters, digits and _ . , : @ % + = / -")


def required(cluster: Any, name: str, why: str) -> None:
    """Raise a UserError where the field `name` of `cluster` is empty."""
    if not getattr(cluster, name):
        raise UserError(f"--{name} is empty: {why}")


def label(name: str, longest: int = 40) -> str:
    """Return `name` as a DNS label: what Kubernetes and clouds call things by."""
    cut = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:longest].strip("-")
    return cut if cut[:1].isalpha() else f"run-{cut}".strip("-")


def manifest(comments: Sequence[str], value: dict[str, Any]) -> str:
    """Return `value` as YAML in its own order, after `comments`; text of several lines stands as it is."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes scripts as blocks."""

    def text(dumper: Dumper, data: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    body = yaml.dump(value, Dumper=Dumper, sort_keys=False, width=10_000)
    return "\n".join([*comments, body])
