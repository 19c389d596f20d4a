"""A whole report in one folder: tables, figures, statistics, provenance, citations and the page that shows them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from research.report import charts, curves, latex, page, provenance, records, significance, spreadsheet, tables
from research.report.cells import Cell, Grid, Key
from research.report.markdown import markdown
from research.report.runs import LOWER
from research.report.tables import Table

LICENCE_WIDTHS = [0.24, 0.12, 0.29, 0.26]
PROVENANCE_WIDTHS = [0.13, 0.17, 0.04, 0.11, 0.1, 0.09, 0.06, 0.11]


def write(folder: pathlib.Path, grid: Grid, against: str, known: dict[str, dict[str, Any]], command: str) -> list[str]:
    """Write the report of `grid` into `folder`, which is there, and return what its reader is to be told.

    Args:
        folder: Takes table, statistics, provenance, references, licences, figures and index.html.
        grid: What the table shows.
        against: What learning curves are drawn over, a key of `curves.AGAINST`.
        known: Records of third parties (see `records.read`).
        command: What makes the report again.

    Raises:
        UserError: Scores of one column cannot be compared.
    """
    tests = significance.compare(grid)
    main, found = tables.results(grid, tests), records.find(grid.runs, known)
    origins, terms, statistics = provenance.table(grid), records.licences(found), significance.table(grid, tests)
    _table(folder / "table", main, latex.latex(main))
    (folder / "table.csv").write_text(spreadsheet.as_csv(grid), encoding="utf-8")
    _json(folder / "statistics.json", [each.to_json(grid) for each in tests])
    _json(folder / "provenance.json", provenance.provenance(grid))
    _table(folder / "provenance", origins, latex.long(origins, PROVENANCE_WIDTHS))
    _table(folder / "licences", terms, latex.long(terms, LICENCE_WIDTHS))
    (folder / "references.bib").write_text(records.bibliography(found), encoding="utf-8")
    drawn, undrawn = figures(folder, grid, against)
    told = [f"not recorded: {line}" for line in found.missing] + undrawn
    sections = [
        page.table_section(main),
        page.figures_section(drawn),
        page.table_section(statistics, small=True) if tests else "",
        page.table_section(origins, small=True),
        page.table_section(terms, small=True, long=True),
        page.notes_section("Left out", undrawn),
    ]
    (folder / "index.html").write_text(page.page("Report", command, sections), encoding="utf-8")
    return told


def _table(path: pathlib.Path, table: Table, as_latex: str) -> None:
    path.with_suffix(".tex").write_text(as_latex, encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


def _json(path: pathlib.Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def figures(folder: pathlib.Path, grid: Grid, against: str) -> tuple[list[tuple[str, pathlib.Path]], list[str]]:
    """Draw what can be drawn as PDF and PNG; return (caption, PNG) of each figure and why others are not there."""
    drawn, undrawn, order = [], [], list(grid.row_names.values())
    for score in grid.scores:
        name = tables.called(score)
        crop = 2.5 if score == "perplexity" else 1.3 if score in LOWER else 0.0
        made = {
            "curves": _curves(grid, score, against),
            "bars": _bars(grid, score),
            "size": _points(grid, score, "parameters"),
            "compute": _points(grid, score, "flops"),
        }
        draw = {
            "curves": lambda panels, path, name=name: curves.learning_curves(
                panels, path, name, against, order, crop
            ),
            "bars": lambda panels, path, name=name: charts.bars(panels, path, name, tables.decimals(grid, score)),
            "size": lambda panels, path, name=name: charts.scatter(panels, path, name, "parameters", order),
            "compute": lambda panels, path, name=name: charts.scatter(panels, path, name, "training FLOPs", order),
        }
        captions = {
            "curves": f"{name} on the validation split, against {curves.AGAINST[against]}; bands: standard deviation",
            "bars": f"{name} on the {grid.split} split",
            "size": f"{name} on the {grid.split} split, against parameters",
            "compute": f"{name} on the {grid.split} split, against training FLOPs",
        }
        reasons = {
            "curves": f"no run has {score} in the evaluations of its metrics.jsonl"
            + (" with what it is drawn against" if against != "steps" else ""),
            "bars": f"no run has {score} of its {grid.split} split",
            "size": "no scored run has its parameters in run.json",
            "compute": "no scored run has flops_per_step in run.json",
        }
        for kind, panels in made.items():
            if not panels:
                undrawn.append(f"{kind}-{score} is not drawn: {reasons[kind]}")
                continue
            for suffix in ("pdf", "png"):
                draw[kind](panels, folder / f"{kind}-{score}.{suffix}")
            drawn.append((captions[kind], folder / f"{kind}-{score}.png"))
    return drawn, undrawn


def _panels(grid: Grid, of_cell) -> dict[str, Any]:
    """Return {column's name: what `of_cell` makes of its rows}, without columns that have none."""
    found = {}
    for column in grid.column_keys:
        each = {row: made for row in grid.row_keys if (made := of_cell(row, column)) is not None}
        if each:
            found[grid.column_names[column]] = each
    return found


def _curves(grid: Grid, score: str, against: str) -> dict[str, dict[str, curves.Band]]:
    def band(row: Key, column: Key) -> curves.Band | None:
        runs = [run for run in grid.cells[row, column, score].runs if run.end]
        return curves.band(runs, score, against)

    names = grid.row_names
    panels = _panels(grid, band)
    return {title: {names[row]: each for row, each in bands.items()} for title, bands in panels.items()}


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
