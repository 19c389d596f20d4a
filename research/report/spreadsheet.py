"""Every cell of a table as a line of CSV, for programs: full precision, one score a line."""

from __future__ import annotations

import csv
import io
from typing import Any

from research.report.cells import Grid
from research.report.costs import NAMES


def as_csv(grid: Grid) -> str:
    """Return every cell as a line: fields, mean, standard deviation, interval, runs, costs, and why one is missing."""
    paths = [*grid.rows, *grid.columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("score", "mean", "standard_deviation", "low", "high", "n", "best", "not_significantly_worse")
    writer.writerow([*paths, *ends, *NAMES, "dirty", "runs", "reason"])
    for cell in grid.cells.values():
        held = [[v for run in cell.runs if run.end and (v := run.cost(name)) is not None] for name in NAMES]
        means = [sum(values) / len(values) if values else None for values in held]
        values = [cell.score, cell.mean, cell.spread, cell.low, cell.high, cell.n, cell.best, cell.tied]
        fields_of = [*cell.row, *cell.column]
        runs = " ".join(run.id for run in cell.scored)
        row = [*fields_of, *values, *means, cell.dirty, runs, "; ".join(cell.reasons)]
        writer.writerow(["" if value is None else _plain(value) for value in row])
    return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
