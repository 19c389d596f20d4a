"""A whole report in one folder: tables, figures, statistics, provenance, citations and the page that shows them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from research.report import comparable, gallery, latex, page, provenance, records, significance, spreadsheet, tables
from research.report.cells import Grid
from research.report.markdown import markdown
from research.report.tables import Table

LICENCE_WIDTHS = [0.24, 0.12, 0.29, 0.26]
STATISTICS_WIDTHS = [0.1, 0.1, 0.09, 0.13, 0.15, 0.085, 0.085, 0.07, 0.045]
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
    comparable.check(grid)
    tests = significance.compare(grid)
    figures = {score: records.published(known, grid.split, score) for score in grid.scores}
    main, found = tables.results(grid, tests, figures), records.find(grid.runs, known, figures.values())
    origins, terms, statistics = provenance.table(grid), records.licences(found), significance.table(grid, tests)
    cited = records.bibliography(found)
    _table(folder / "table", main, latex.latex(main))
    (folder / "table.csv").write_text(spreadsheet.as_csv(grid, figures), encoding="utf-8")
    _json(folder / "statistics.json", [each.to_json(grid) for each in tests])
    _table(folder / "statistics", statistics, latex.long(statistics, STATISTICS_WIDTHS))
    _json(folder / "provenance.json", provenance.provenance(grid, figures))
    _table(folder / "provenance", origins, latex.long(origins, PROVENANCE_WIDTHS))
    _table(folder / "licences", terms, latex.long(terms, LICENCE_WIDTHS))
    (folder / "references.bib").write_text(cited, encoding="utf-8")
    drawn, undrawn = _drawn(folder, grid, against)
    told = [f"not recorded: {line}" for line in found.missing] + undrawn
    sections = [
        page.table_section(main),
        page.figures_section(drawn),
        page.table_section(statistics, small=True) if tests else "",
        page.table_section(origins, small=True),
        page.table_section(terms, small=True, long=True),
        page.source_section("References (BibTeX)", cited) if found.used else "",
        page.notes_section("Left out", undrawn),
    ]
    (folder / "index.html").write_text(page.page("Report", command, sections), encoding="utf-8")
    return told


def _table(path: pathlib.Path, table: Table, as_latex: str) -> None:
    path.with_suffix(".tex").write_text(as_latex, encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


def _json(path: pathlib.Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _drawn(folder: pathlib.Path, grid: Grid, against: str) -> tuple[list[tuple[str, pathlib.Path]], list[str]]:
    """Draw what can be drawn as PDF and PNG; return (caption, PNG) of each figure and why others are not there."""
    drawn, undrawn = [], []
    for picture in (picture for score in grid.scores for picture in gallery.pictures(grid, score, against)):
        if picture.draw is None:
            undrawn.append(f"{picture.name} is not drawn: {picture.reason}")
            continue
        for suffix in ("pdf", "png"):
            picture.draw(folder / f"{picture.name}.{suffix}")
        drawn.append((picture.caption, folder / f"{picture.name}.png"))
    return drawn, undrawn
