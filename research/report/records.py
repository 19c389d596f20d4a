"""What of others the runs used, by the records in third_party: citations, licences, and what has no record."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from research.report.logs import is_number
from research.report.runs import Logged
from research.report.tables import Head, Table, Text
from research.types import UserError

ABOVE = "above 0"  # among a field's values in a record: any such number
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
    record: str  # folder in third_party


class Found(NamedTuple):
    """What was used."""

    used: dict[str, dict[str, Any]]  # record's folder name -> record
    missing: list[str]  # one line for each thing that has no record


def read(folder: pathlib.Path = RECORDS) -> dict[str, dict[str, Any]]:
    """Return {folder name: record} of every METADATA.toml in `folder`.

    Raises:
        UserError: One is not TOML, or a field is missing or of another kind; names the file, and the line or field.
    """
    found = {}
    for file in sorted(folder.glob("*/METADATA.toml")):
        try:
            found[file.parent.name] = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: {error}: mend the record") from None
        if wrong := _wrong(found[file.parent.name]):
            raise UserError(f"{file}: {wrong}: mend the record")
    return found


def _wrong(record: dict[str, Any]) -> str:
    """Return what is wrong with a record, or an empty string."""
    for name in ("kind", "title", "licence", "source", "bibtex"):
        if not isinstance(record.get(name), str):
            return f"{name} is missing or not a text"
    figures, names, paths = record.get("published", []), record.get("names", []), record.get("fields", {})
    if not (isinstance(names, list) and isinstance(paths, dict) and all(isinstance(v, list) for v in paths.values())):
        return "names is not a list, or fields not a table of lists"
    if not (isinstance(figures, list) and all(isinstance(figure, dict) for figure in figures)):
        return "published is not a list of tables: write [[published]]"
    for figure in figures:
        if missing := {"name", "score", "split", "value", "source"} - figure.keys():
            return f"a published figure has no {sorted(missing)[0]}"
        if not is_number(figure["value"]):
            return f"the published figure of {figure['name']} is not a number"
    return ""


def published(records: dict[str, dict[str, Any]], split: str, score: str) -> dict[str, list[Published]]:
    """Return {name of a run: the published figures that it reproduces}, of a score of a split."""
    found: dict[str, list[Published]] = {}
    for folder, record in records.items():
        for figure in record.get("published", []):
            if (figure["split"], figure["score"]) == (split, score):
                found.setdefault(figure["name"], []).append(Published(float(figure["value"]), figure["source"], folder))
    return found


def uses(run: Logged) -> Iterator[Use]:
    """Yield what `run` names of others, and what the runs that it came from do, where they are still there."""
    for each in run.lineage:
        for source in (each.resolved.get("data") or {}).get("sources") or []:
            yield Use("dataset", str(source.get("path") or ""), run.id)
        for path in each.origins:
            if path and not {path, str(pathlib.PurePath(path).parent)} & set(each.parents):
                yield Use("checkpoint", path, run.id)


def find(
    runs: Sequence[Logged], records: dict[str, dict[str, Any]], figures: Iterable[Mapping[str, list[Published]]] = ()
) -> Found:
    """Return the records of all that `runs` used, and what of it has none.

    A data set or checkpoint is matched by name: the last part of its path (of a file also that of its folder) is the
    record's folder name or one of its `names`, or it is the hub id of the record's source. A paper is matched by
    `fields`, such as {"optimizer.name": ["adamw"], "arch.cache": ["above 0"]}, all of which a run or one that it came
    from has; or by one of `figures`, as `published` returns them, which stands beside a run.
    """
    used, missing = {}, {}
    for use in (use for run in runs for use in uses(run)):
        name = next((name for name, record in records.items() if _is_of(use, name, record)), None)
        if name:
            used[name] = records[name]
        else:
            missing.setdefault(f"{use.kind} {use.path or 'without a path'}", []).append(use.run)
    every = list({each.folder.resolve(): each for run in runs for each in run.lineage}.values())
    for name, record in records.items():
        if record["kind"] == "paper" and any(_has(run, record.get("fields", {})) for run in every):
            used[name] = record
    for figure in (each for of in figures for run in runs for each in of.get(run.resolved.get("name"), [])):
        used[figure.record] = records[figure.record]
    lines = [f"{what} has no record in third_party ({_of(list(dict.fromkeys(ids)))})" for what, ids in missing.items()]
    return Found({name: used[name] for name in sorted(used)}, lines)


def _of(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more runs" if len(ids) > 3 else "")


def _is_of(use: Use, name: str, record: dict[str, Any]) -> bool:
    if record["kind"] != use.kind or not use.path:
        return False
    path = pathlib.PurePath(use.path)
    parts = {path.name, path.parent.name} if path.suffix else {path.name}
    return bool(parts & {name, *record.get("names", ())}) or record["source"].endswith(f"/{use.path}")


def _has(run: Logged, wanted: dict[str, list[Any]]) -> bool:
    return bool(wanted) and all(_is_one(run.fields.get(path), values) for path, values in wanted.items())


def _is_one(value: Any, values: list[Any]) -> bool:
    return value in values or ABOVE in values and is_number(value) and value > 0


def bibliography(found: Found) -> str:
    """Return the BibTeX entries of what was used, each key once."""
    entries = {}
    for record in found.used.values():
        for entry in re.split(r"\n(?=@)", record["bibtex"].strip()):
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
