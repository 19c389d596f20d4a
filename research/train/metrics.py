"""What a run leaves to read: metrics.jsonl, one JSON row a line, and run.json, everything needed to repeat the run.

`metrics.jsonl` is the truth, always on and offline; trackers are mirrors of it. Every table and figure is rebuilt from
these two files alone.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import numpy as np

from research.report.logs import ROWS, RUN, read, read_run
from research.types import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "tokenizers", "numpy")


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replace the file at `path` by `text`: whoever reads it, also after a power cut, meets the old text or the new."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def plain(value: Any) -> Any:
    """Return `value` as plain JSON values: arrays as lists or numbers, NaN and infinities (JSON has none) as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    return str(value)  # paths, dtypes, dates


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------


class Metrics:
    """Appends rows to `folder`/metrics.jsonl and, if asked, mirrors their numbers to TensorBoard event files.

    Rows of a step must be written before the checkpoint of that step: `cut` keeps them when the run resumes there.

    Raises:
        UserError: The folder cannot be written, or `tensorboard` is asked for and tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike, tensorboard: bool = False):
        self._folder = pathlib.Path(folder)
        self._path = self._folder / ROWS
        self._events = None
        self._purge = None
        if tensorboard:
            try:
                import tensorboardX  # noqa: F401
            except ImportError:
                raise UserError("tensorboard is asked for, but not installed: pip install tensorboardX") from None
        self._tensorboard = tensorboard
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}; choose another --out") from None
        whole = self._path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)  # a kill may have torn the last line

    def write(self, row: dict[str, Any]) -> None:
        """Append `row` (it has a `step`) in one system call, so that a kill tears the last line at most."""
        row = plain(row)
        self._file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        if self._tensorboard:
            self._mirror(row)

    def cut(self, step: int) -> None:
        """Drop the rows past `step`, the checkpoint that the run resumes from, and its end: no step may appear twice."""
        rows = read(self._folder)
        kept = [row for row in rows if row.get("step", 0) <= step and row.get("kind") != "end"]
        if len(kept) < len(rows):
            self._file.close()
            write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        self._purge = step + 1
        if self._events:
            self._events.close()
            self._events = None

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mirror(self, row: dict[str, Any]) -> None:
        if self._events is None:
            from tensorboardX import SummaryWriter

            # Event files only grow: purge_step tells TensorBoard to hide what an earlier writer put at or past it.
            self._events = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._purge)
        kind = f"{row['kind']}/" if "kind" in row else ""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(kind + name, value, row["step"])
        self._events.flush()


# --- run.json ---------------------------------------------------------------------------------------------------------


def describe(
    folder: str | os.PathLike,
    configuration: dict[str, Any],
    *,
    step: int = 0,
    mesh: dict[str, int] | None = None,
    fingerprints: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write `folder`/run.json and return what it holds: all that is needed, besides the data, to repeat the run.

    A run that resumes (`step` > 0) keeps its first start and appends the new one to `resumed`, as the code, the
    packages and the devices may have changed in between.

    Args:
        folder: The run's folder; made if absent.
        configuration: The whole of the configuration, as JSON values.
        step: Update from which this process starts.
        mesh: Axis names and sizes.
        fingerprints: Of data and tokenizer.
        **more: Further facts, JSON values (the step count found by a probe, parameters ...).

    Raises:
        UserError: The folder cannot be written, or the run.json to append to is damaged.
    """
    path = pathlib.Path(folder) / RUN
    start = {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "step": step,
        "command": command(),
        "git": git(pathlib.Path(__file__).parent),
        "versions": versions(),
        "devices": devices(),
        "cores": cores(),
        "mesh": mesh,
    }
    values = {"configuration": configuration, **start, "fingerprints": fingerprints, **more, "resumed": []}
    if step > 0 and path.exists():
        earlier = read_run(folder)
        first = {name: earlier.get(name) for name in start}
        if earlier["configuration"] != plain(configuration):
            start["configuration_before"] = earlier["configuration"]
        values |= {**first, "resumed": [*earlier.get("resumed", []), start]}
    values = plain(values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    return values


def drop_scores(folder: pathlib.Path) -> None:
    """Remove the scores that `evaluate` kept in a run's `folder`: the model goes on, and they are of what it was."""
    for path in sorted((folder / "scores").glob("*.json")):
        path.unlink()
        print(f"removed {path}, which is of an earlier model: evaluate {folder} again when it is done")


def command() -> str | None:
    """Return the command line of this process as it would be typed, or None where it is not `python -m research`."""
    if pathlib.Path(sys.argv[0]).parts[-2:] != ("research", "__main__.py"):
        return None
    return shlex.join(["python", "-m", "research", *sys.argv[1:]])


def git(folder: pathlib.Path) -> dict[str, Any] | None:
    """Return {commit, dirty} of the repository around `folder`, or None where there is none; what git ignores passes."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that results depend on; None where one is not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def devices() -> dict[str, Any]:
    """Return the platform, kind and number of the devices that JAX sees, and of the processes that hold them."""
    import jax

    device, *others = jax.devices()
    counts = {"count": 1 + len(others), "processes": jax.process_count()}
    return {"platform": device.platform, "kind": device.device_kind, **counts}


def cores() -> int:
    """Return the number of CPU cores that this process may use: CPU reductions round by it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
