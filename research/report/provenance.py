"""Where every cell comes from: run, configuration, commit, data, checkpoint."""

from __future__ import annotations

from typing import Any

from research.report import comparable, fields
from research.report.cells import Grid
from research.report.runs import Logged
from research.report.tables import DIRTY, Head, Table, Text


def provenance(grid: Grid) -> list[dict[str, Any]]:
    """Return, for each cell of the table in its order, what it is of and each run that it is made from."""
    return [
        {
            "row": dict(zip(grid.rows, cell.row, strict=True)),
            "column": dict(zip(grid.columns, cell.column, strict=True)),
            "score": cell.score,
            "split": grid.split,
            "mean": cell.mean,
            "standard_deviation": cell.spread,
            "runs": [{**origin(run, cell.score), "value": run.holder(cell.score)[cell.score]} for run in cell.scored],
            "left_out": [origin(run, cell.score) for run in cell.runs if run not in cell.scored],
            "reasons": cell.reasons,
        }
        for cell in grid.cells.values()
    ]


def origin(run: Logged, score: str) -> dict[str, Any]:
    """Return what leads from a score back to what it was computed by and from."""
    held = run.holder(score)
    return {
        "run": run.id,
        "folder": str(run.folder),
        "seed": run.seed,
        "configuration": run.hash,
        "commit": run.commits[-1] if run.commits else None,
        "commits": run.commits,
        "dirty": run.dirty,
        "data": comparable.fingerprint(run, score),
        "training_data": (run.facts.get("fingerprints") or {}).get("train"),
        "tokenizer": run.tokenizer,
        "checkpoint": held.get("checkpoint"),
        "step": held.get("step"),
        "started": run.facts.get("started"),
        "evaluated": held.get("started"),
        "command": run.facts.get("command"),
        "versions": run.facts.get("versions"),
        "devices": run.facts.get("devices"),
    }


def table(grid: Grid) -> Table:
    """Return the appendix table: a row a run, its hashes cut to eight digits."""
    rows = []
    for run in grid.runs:
        score = next((score for score in grid.scores if run.holder(score)), grid.scores[0])
        found, called = origin(run, score), grid.row_names[grid.place(run)[0]]
        column = grid.column_names[grid.place(run)[1]]
        place = f"{called} ({column})" if column else called
        started = str(found["started"] or fields.ABSENT)[:10]
        commit = Text(_short(found["commit"]), DIRTY if found["dirty"] else "")
        hashes = [Text(_short(found["configuration"])), commit, Text(_short(found["data"]))]
        step = fields.ABSENT if found["step"] is None else f"{found['step']:,}"
        rows.append([Text(place), Text(run.id), Text(str(run.seed)), *hashes, Text(step), Text(started)])
    heads = ["model", "run", "seed", "configuration", "commit", "data", "step", "started"]
    notes = [("", f"Hashes are cut to eight digits; provenance.json has them whole. Data: the {grid.split} split.")]
    if any(run.dirty for run in grid.runs):
        notes.append((DIRTY, "from a working tree with changes that no commit holds"))
    return Table("Provenance", [list(map(Head, heads))], rows, len(heads), notes)


def _short(value: str | None) -> str:
    return value[:8] if value else fields.ABSENT
