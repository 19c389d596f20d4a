"""What of others the runs used, by the records in third_party: citations, licences, and what has no record."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from research.report import logs
from research.report.runs import Logged
from research.report.tables import Head, Table, Text
from research.types import UserError

RECORDS = pathlib.Path(__file__).resolve().parents[2] / "third_party"


class Use(NamedTuple):
    """One thing of others that a run names."""

    kind: str  # dataset, checkpoint
    path: str  # as the run names it
    run: str  # id


class Published(NamedTuple):
    """A figure that others published of what a run reproduces."""

    value: float
    source: str


class Found(NamedTuple):
    """What was used."""

    used: dict[str, dict[str, Any]]  # record's folder name -> record
    missing: list[str]  # one line for each thing that has no record


def read(folder: pathlib.Path = RECORDS) -> dict[str, dict[str, Any]]:
    """Return {folder name: record} of every METADATA.toml in `folder`.

    Raises:
        UserError: One is not TOML; names the file and the line.
    """
    found = {}
    for file in sorted(folder.glob("*/METADATA.toml")):
        try:
            found[file.parent.name] = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: {error}: mend the record") from None
    return found


def published(records: dict[str, dict[str, Any]], split: str, score: str) -> dict[str, Published]:
    """Return {name of a run: the published figure that it reproduces}, of a score of a split.

    Raises:
        UserError: A record has a figure without its name, score, split, value or source; names the file.
    """
    found = {}
    for folder, record in records.items():
        for figure in record.get("published", ()):
            if missing := {"name", "score", "split", "value", "source"} - figure.keys():
                raise UserError(f"{RECORDS / folder}/METADATA.toml: a published figure has no {sorted(missing)[0]}: add it")
            if (figure["split"], figure["score"]) == (split, score):
                found[figure["name"]] = Published(float(figure["value"]), figure["source"])
    return found


def uses(run: Logged) -> Iterator[Use]:
    """Yield what `run` names of others, and what the runs that it started from do, where they are still there."""
    values, seen = run.resolved, set()
    while True:
        data = values.get("data") or {}
        for source in data.get("sources") or []:
            yield Use("dataset", source.get("path", ""), run.id)
        tokenizer, start = (data.get("tokenizer") or {}).get("path"), (values.get("init") or {}).get("path")
        if tokenizer:
            yield Use("checkpoint", tokenizer, run.id)
        if not start or start in seen:
            return
        seen.add(start)
        if not (pathlib.Path(start) / logs.RUN).is_file():
            yield Use("checkpoint", start, run.id)
            return
        earlier = logs.read_run(start)
        values = earlier.get("resolved") or earlier["configuration"]


def find(runs: Sequence[Logged], records: dict[str, dict[str, Any]]) -> Found:
    """Return the records of all that `runs` used, and what of it has none.

    A data set or checkpoint is matched by name: the last part of its path (of a file also that of its folder) is the
    record's folder name or one of its `names`, or it is the hub id of the record's source. A paper is matched by
    `fields`, such as {"optimizer.name": ["adamw"]}, all of which a run has.
    """
    used, missing = {}, {}
    for use in (use for run in runs for use in uses(run)):
        name = next((name for name, record in records.items() if _is_of(use, name, record)), None)
        if name:
            used[name] = records[name]
        else:
            where = pathlib.PurePath(use.path).name or "an unnamed source"
            missing.setdefault(f"{use.kind} {use.path or where}", []).append(use.run)
    for name, record in records.items():
        if record.get("kind") == "paper" and any(_has(run, record.get("fields") or {}) for run in runs):
            used[name] = record
    lines = [f"{what} has no record in third_party ({_of(list(dict.fromkeys(ids)))})" for what, ids in missing.items()]
    return Found({name: used[name] for name in sorted(used)}, lines)


def _of(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more runs" if len(ids) > 3 else "")


def _is_of(use: Use, name: str, record: dict[str, Any]) -> bool:
    if record.get("kind") != use.kind:
        return False
    path = pathlib.PurePath(use.path)
    parts = {path.name, path.parent.name} if path.suffix else {path.name}
    return bool(parts & {name, *record.get("names", ())}) or record.get("source", "").endswith(f"/{use.path}")


def _has(run: Logged, wanted: dict[str, list[Any]]) -> bool:
    trained = any(row.get("kind") == "train" for row in run.rows)
    if not trained and any(path.startswith("optimizer.") for path in wanted):
        return False  # counted, not trained: its configuration has an optimizer, which it never used
    return bool(wanted) and all(run.fields.get(path) in values for path, values in wanted.items())


def bibliography(found: Found) -> str:
    """Return the BibTeX entries of what was used, each key once."""
    entries = {}
    for record in found.used.values():
        for entry in re.split(r"\n(?=@)", record.get("bibtex", "").strip()):
            if key := re.match(r"@\w+\{([^,\s]+),", entry):
                entries.setdefault(key[1], entry)
    return "\n\n".join(entries.values()) + "\n" if entries else "% nothing recorded was used\n"


def licences(found: Found) -> Table:
    """Return the table of what was used, on what terms and from where, and what is not recorded below."""
    rows = [
        [Text(record["title"]), Text(record["kind"]), Text(record["licence"]), Text(record["source"])]
        for record in found.used.values()
        if record["kind"] != "paper"
    ]
    notes = [("", "Matched by name: whether files are the recorded ones, their checksums say.")] if rows else []
    notes += [("", f"Not recorded: {line}.") for line in found.missing]
    heads = ["title", "kind", "licence", "source"]
    return Table("Data and checkpoints of others", [list(map(Head, heads))], rows, len(heads), notes)
