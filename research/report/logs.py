"""What a run left to read: the rows of metrics.jsonl and the facts of run.json, from which reports are made."""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

from research.types import UserError

ROWS = "metrics.jsonl"
RUN = "run.json"
OF_CONFIGURATION = ("arch", "objective", "data", "data.cleaning", "data.tokenizer", "init")
OBJECTS = (
    "configuration", "resolved", "git", "fingerprints", "versions",
    *(f"{of}.{part}" for of in ("configuration", "resolved") for part in OF_CONFIGURATION),
)  # fmt: skip
TEXTS = tuple(f"{of}.{name}" for of in ("configuration", "resolved") for name in ("name", "best_by", "objective.name"))
LISTS = ("resumed", "parts", "configuration.data.sources", "resolved.data.sources")  # of objects
NUMBERS = ("parameters", "flops_per_step")


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
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is not a JSON object: remove the line or restore the file")
        if name := next((n for n in ("step", "tokens", "elapsed") if not _is_amount(row.get(n, 0), n != "step")), None):
            raise UserError(f"{path}:{number}: {name} is not a number from 0 on: remove the line or restore the file")
        rows.append(row)
    return rows


def is_number(value: Any, unknown: bool = False) -> bool:
    """Return whether `value` is a finite number, not a bool; or None, which JSON has for others, where these pass."""
    if value is None:
        return unknown
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_amount(value: Any, unknown: bool = False) -> bool:
    return is_number(value, unknown) and (value or 0) >= 0


def line_of(error: Exception) -> str:
    """Return " (line 3)" where JSON stops being JSON there; empty where it is not known."""
    return f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""


def _wrong(values: dict[str, Any]) -> str:
    """Return which field of a run.json is of another kind than it must be, or an empty string; those not there pass."""

    def at(path: str) -> Any:
        found = values
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    for path in OBJECTS:
        if at(path) is not None and not isinstance(at(path), dict):
            return f"{path} is not an object"
    for path in TEXTS:
        if not isinstance(at(path) or "", str):
            return f"{path} is not a text"
    for path in LISTS:
        if not (isinstance(at(path) or [], list) and all(isinstance(each, dict) for each in at(path) or [])):
            return f"{path} is not a list of objects"
    if not all(isinstance(each.get("git") or {}, dict) for each in at("resumed") or []):
        return "git of resumed is not an object"
    return next((f"{path} is not a number from 0 on" for path in NUMBERS if not _is_amount(at(path), unknown=True)), "")


def read_run(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what `folder`/run.json holds.

    Raises:
        UserError: There is no such file, it is not JSON (names the line), or a field is of another kind (names it).
    """
    path, remedy = pathlib.Path(folder) / RUN, "restore the file or start the run anew elsewhere"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of a run") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON{line_of(error)}: {remedy}") from None
    if not (isinstance(values, dict) and values.get("configuration") is not None):
        raise UserError(f"{path} has no configuration: {remedy}")
    if wrong := _wrong(values):
        raise UserError(f"{path}: {wrong}: {remedy}")
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
