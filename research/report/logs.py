"""What a run left to read: the rows of metrics.jsonl and the facts of run.json, from which reports are made."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from research.types import UserError

ROWS = "metrics.jsonl"
RUN = "run.json"


def read(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the rows of `folder`/metrics.jsonl in the order written, without a last line that a kill tore.

    Raises:
        UserError: There is no such file, or a line other than a torn last one is not JSON (names file and line).
    """
    path = pathlib.Path(folder) / ROWS
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of a run") from None
    rows = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is not a JSON object: remove the line or restore the file")
        rows.append(row)
    return rows


def read_run(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what `folder`/run.json holds.

    Raises:
        UserError: There is no such file or it is not JSON; give the folder of a run.
    """
    path = pathlib.Path(folder) / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of a run") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: restore the file or start the run anew elsewhere") from None
    if not (isinstance(values, dict) and "configuration" in values):
        raise UserError(f"{path} has no configuration: restore the file or start the run anew elsewhere")
    return values


def read_trained(folder: str | os.PathLike, remedy: str = "give one of these") -> dict[str, Any]:
    """Return what `folder`/run.json holds of a run that has a model of its own.

    Raises:
        UserError: As `read_run`; or it is a mixture of runs (see `interpolate`), for which there is a `remedy`.
    """
    values = read_run(folder)
    if parts := values.get("parts"):
        mixed = ", ".join(part["folder"] for part in parts)
        raise UserError(f"{folder} is a mixture of {mixed}, and has no model of its own: {remedy}")
    return values
