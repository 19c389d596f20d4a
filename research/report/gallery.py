"""Which figures a report has, made of the cells of its table: learning curves, bars, scores over size and compute."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from research.report import charts, comparable, curves, tables
from research.report.cells import Cell, Grid, Key
from research.report.runs import LOWER


class Picture(NamedTuple):
    """One figure."""

    name: str  # of its files
    caption: str
    draw: Callable[[pathlib.Path], None] | None  # None: there is nothing to draw
    reason: str  # why


def pictures(grid: Grid, score: str, against: str) -> list[Picture]:
    """Return the figures of `score`; learning curves are over `against`, a key of `curves.AGAINST`."""
    called, order = tables.called(score), list(grid.row_names.values())
    crop = 2.5 if score == "perplexity" else 1.3 if score in LOWER else 0.0
    bands, why = _curves(grid, score, against)

    def picture(kind: str, caption: str, panels: dict, reason: str, draw: Callable, *settings: Any) -> Picture:
        def to(path: pathlib.Path) -> None:
            draw(panels, path, called, *settings)

        return Picture(f"{kind}-{re.sub(r'[^A-Za-z0-9_.]', '_', score)}", f"{called} {caption}", to if panels else None, reason)

    spread = "; lines: standard deviation over seeds" if grid.interval == "sd" else "; lines: 95 % bootstrap intervals"
    spread = spread if any(cell.low is not None for cell in grid.cells.values() if cell.score == score) else ""
    on = f"on the {grid.split} split"
    over = f"on the validation split{_samples(grid)}, against {curves.AGAINST[against]}"
    drawn = [band for panel in bands.values() for band in panel.values()]
    over += "; bands: standard deviation over seeds" if any(band.spread.any() for band in drawn) else ""
    over += _level([band.counted for band in drawn], "models that no updates made")
    size, compute = (_points(grid, score, cost) for cost in ("parameters", "flops"))
    free = [_level([each.x is None for panel in found.values() for each in panel], f"models without recorded {what}")
            for found, what in ((size, "parameters"), (compute, "training FLOPs"))]  # fmt: skip
    found = [
        picture("curves", over, bands, why, curves.learning_curves, against, order, crop),
        picture("bars", f"{on}{spread}", _bars(grid, score), f"no run has {score} of its {grid.split} split",
                charts.bars, tables.decimals(grid, score)),
        picture("size", f"{on}, against parameters{spread}{free[0]}", size,
                "no scored run has its parameters in run.json", charts.scatter, "parameters", order),
        picture("compute", f"{on}, against training FLOPs{spread}{free[1]}", compute,
                "no scored run has flops_per_step in run.json", charts.scatter, "training FLOPs", order),
    ]  # fmt: skip
    return found if found[1].draw else found[:2]  # without a score it is said once


def _level(those: list[bool], what: str) -> str:
    return f"; level: {what}" if any(those) else ""


def _samples(grid: Grid) -> str:
    """Return which runs were evaluated on a sample of the validation split during training, and how large it is."""
    found: dict[int, list[str]] = {}
    for row in grid.row_keys:
        for count in {run.fields.get("evaluate_rows") or 0 for run in grid.runs if grid.place(run)[0] == row} - {0}:
            found.setdefault(count, []).append(grid.row_names[row])
    said = [f"{' and '.join(names)} on {count:,} rows of it" for count, names in found.items()]
    return f" ({'; '.join(said)})" if said else ""


def _panels(grid: Grid, of_cell: Callable[[Key, Key], Any]) -> dict[str, dict[Key, Any]]:
    """Return {column's name: what `of_cell` makes of its rows}, without columns that have none."""
    found = {}
    for column in grid.column_keys:
        each = {row: made for row in grid.row_keys if (made := of_cell(row, column)) is not None}
        if each:
            found[grid.column_names[column]] = each
    return found


def _curves(grid: Grid, score: str, against: str) -> tuple[dict[str, dict[str, curves.Band]], str]:
    """Return the curves of each column, and why there is none where there is none."""
    reason = f"no finished run has {score} in the evaluations of its metrics.jsonl"
    reason += " with what it is drawn against" if against != "steps" else ""

    def band(row: Key, column: Key) -> curves.Band | None:
        runs = [run for run in grid.cells[row, column, score].runs if run.end]
        return curves.band(runs, score, against)

    names, found = grid.row_names, {}
    for column in grid.column_keys:
        bands = {row: each for row in grid.row_keys if (each := band(row, column)) is not None}
        runs = [run for row in bands for run in grid.cells[row, column, score].runs]
        if why := comparable.apart(runs, score):
            reason = f"not comparable: {why}"
        elif bands and all(band.counted for band in bands.values()):
            reason = "no updates made any of the models"
        elif bands:
            found[grid.column_names[column]] = {names[row]: each for row, each in bands.items()}
    return found, reason


def _bars(grid: Grid, score: str) -> dict[str, list[charts.Bar]]:
    def cell(row: Key, column: Key) -> Cell | None:
        found = grid.cells[row, column, score]
        return found if found.scored else None

    names = grid.row_names
    return {
        title: [charts.Bar(names[row], each.mean, each.low, each.high) for row, each in cells.items()]
        for title, cells in _panels(grid, cell).items()
    }


def _points(grid: Grid, score: str, cost: str) -> dict[str, list[charts.Point]]:
    names = grid.row_names

    def point(row: Key, column: Key) -> charts.Point | None:
        cell = grid.cells[row, column, score]
        known = [value for run in cell.scored if (value := run.cost(cost))]
        place = sum(known) / len(known) if known else None
        return charts.Point(names[row], place, cell.mean, cell.low, cell.high) if cell.scored else None

    panels = {title: list(points.values()) for title, points in _panels(grid, point).items()}
    return {title: points for title, points in panels.items() if any(each.x is not None for each in points)}
