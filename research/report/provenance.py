"""Where every cell comes from: run, configuration, commit, data, checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from research.report import comparable, fields, tables
from research.report.cells import Grid
from research.report.runs import Logged
from research.report.costs import NAMES
from research.report.tables import Head, Notes, Table, Text, explained, marks

if TYPE_CHECKING:
    from research.report.records import Published


def provenance(grid: Grid, known: Mapping[str, dict[str, list[Published]]]) -> list[dict[str, Any]]:
    """Return, for each cell of the table in its order, what it is of and each run that it is made from.

    Costs are with the runs, since a row's are their means; published figures (see `tables.results`) are with the cell.
    """
    return [
        {
            "row": dict(zip(grid.rows, cell.row, strict=True)),
            "column": dict(zip(grid.columns, cell.column, strict=True)),
            "score": cell.score,
            "split": grid.split,
            "mean": cell.mean,
            "standard_deviation": cell.spread,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n,
            "runs": [{**origin(run, cell.score), "value": run.holder(cell.score)[cell.score]} for run in cell.scored],
            "left_out": [origin(run, cell.score) for run in cell.runs if run not in cell.scored],
            "reasons": cell.reasons,
            "remarks": cell.remarks,
            "published": [figure._asdict() for figure in tables.published_of(cell, known)],
        }
        for cell in grid.cells.values()
    ]


def origin(run: Logged, score: str) -> dict[str, Any]:
    """Return what leads from a score back to what it was computed by and from."""
    held = run.holder(score)
    return {
        **_computed(run),
        "finished": run.end is not None,
        "data": comparable.fingerprint(run, score),
        "training_data": (run.facts.get("fingerprints") or {}).get("train"),
        "tokenizer": run.tokenizer,
        "checkpoint": held.get("checkpoint"),
        "step": held.get("step"),
        "started": run.facts.get("started"),
        "evaluated": held.get("evaluated"),
        "decoding": held.get("decoding"),
        "command": run.facts.get("command"),
        "versions": run.facts.get("versions"),
        "devices": run.facts.get("devices"),
        "costs": {name: run.cost(name) for name in NAMES},
        "parts": run.facts.get("parts"),
        "from": [_computed(other) for other in run.lineage[1:]],
    }


def _computed(run: Logged) -> dict[str, Any]:
    """Return which run it is, and by what code it was computed."""
    return {
        "run": run.id,
        "folder": str(run.folder),
        "seed": run.seed,
        "configuration": run.hash,
        "commit": run.commits[-1] if run.commits else None,
        "commits": run.commits,
        "dirty": run.dirty,
        "unversioned": run.unversioned,
    }


def table(grid: Grid) -> Table:
    """Return the appendix table: a row a run, its hashes cut to eight digits."""
    rows, notes = [], Notes()

    def known(value: Any, reason: str) -> Text:
        return Text(fields.ABSENT, notes.letter(reason)) if value in (None, "") else Text(str(value))

    for run in grid.runs:
        score = next((score for score in grid.scores if run.holder(score)), grid.scores[0])
        found, (row, column) = origin(run, score), grid.place(run)
        place = grid.row_names[row] + (f" ({grid.column_names[column]})" if grid.column_names[column] else "")
        step = known(None if found["step"] is None else f"{found['step']:,}", f"not evaluated on {grid.split}")
        if run.unfinished:
            step = step._replace(notes=notes.letter(run.unfinished))
        rows.append([
            Text(place),
            Text(run.id),
            Text(str(run.seed)),
            Text(_short(found["configuration"])),
            Text(_short(found["commit"]) or fields.ABSENT, marks(run.dirty, run.unversioned)),
            known(_short(found["data"]), "no fingerprint of these data is recorded"),
            step,
            known(str(found["started"] or "")[:10], "run.json records no start"),
        ])  # fmt: skip
    heads = ["model", "run", "seed", "configuration", "commit", "data", "step", "started"]
    said = [("", f"Hashes are cut to eight digits; provenance.json has them whole. Data: the {grid.split} split.")]
    said += explained(text for row in rows for text in row)
    said += [(letter, reason) for reason, letter in notes.letters.items()]
    return Table("Provenance", [list(map(Head, heads))], rows, len(heads), said)


def _short(value: str | None) -> str:
    return value[:8] if value else ""
