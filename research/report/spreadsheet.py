"""Every cell of a table as a line of CSV, for programs: full precision, one score a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from research.report.cells import Grid
from research.report.costs import NAMES
from research.report.tables import published_of

if TYPE_CHECKING:
    from research.report.records import Published


def as_csv(grid: Grid, known: Mapping[str, dict[str, list[Published]]]) -> str:
    """Return every cell as a line: fields, mean, standard deviation, interval, runs, costs, and why one is missing.

    `known` are published figures, see `tables.results`.
    """
    paths = [*grid.rows, *grid.columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("score", "mean", "standard_deviation", "low", "high", "n", "best", "not_significantly_worse", "published")
    writer.writerow([*paths, *ends, *NAMES, "dirty", "unversioned", "runs", "reason", "remark"])
    for cell in grid.cells.values():
        held = [[v for run in cell.runs if run.end and (v := run.cost(name)) is not None] for name in NAMES]
        means = [sum(values) / len(values) if values else None for values in held]
        figures = " / ".join(f"{figure.value:g}" for figure in published_of(cell, known))
        values = [cell.score, cell.mean, cell.spread, cell.low, cell.high, cell.n, cell.best, cell.tied, figures]
        fields_of = [*cell.row, *cell.column]
        runs = " ".join(run.id for run in cell.scored)
        said = ["; ".join(cell.reasons), "; ".join(cell.remarks)]
        row = [*fields_of, *values, *means, cell.dirty, cell.unversioned, runs, *said]
        writer.writerow(["" if value is None else _plain(value) for value in row])
    return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
