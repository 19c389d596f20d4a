"""`report RUNS... --out DIR`: a paper's tables, figures, statistics and citations, from the folders of runs alone."""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import get_args

from research.commands.arguments import Parser, check_writable
from research.report import cells, comparable, records, runs
from research.report.curves import AGAINST
from research.report.write import write
from research.types import Split

EXAMPLES = """examples:
  python -m research report runs/* --out report
  python -m research report runs/lstm-* runs/kn5 --rows arch.cell --split validation --out report
  python -m research report sweeps/lr/* --rows learning_rate --columns data.sources.0.path --out report
  python -m research report runs/* --scores perplexity bits_per_byte --interval bootstrap --out report

Fields are those of the configuration, whole (optimizer.learning_rate) or as short as is plain (learning_rate). Runs
that differ by their seed alone are one cell. Scores are what `evaluate RUN --split test` kept in the run's folder.

--out takes table (.tex, .md, .csv), figures (.pdf, .png), statistics and provenance (.tex, .md, .json),
references.bib, licences (.tex, .md), and index.html, which shows all of it."""


def main(arguments: list[str]) -> int:
    """Write the report and say where it is and what it lacks."""
    parser = Parser("report", "Make the tables and figures of a paper from runs.", epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="new folder, or an empty one")
    several = {"nargs": "+", "default": []}
    parser.add_argument("--rows", **several, metavar="FIELD", help="what tells rows; else what tells the runs apart")
    parser.add_argument("--columns", **several, metavar="FIELD", help="what tells groups of columns; else there is one")
    parser.add_argument("--scores", **several, metavar="SCORE", help="perplexity, loss, accuracy ...; else the usual")
    parser.add_argument("--split", choices=get_args(Split), default="test", help="whose scores (default: test)")
    spread = "standard deviation over seeds (default), or a 95 %% bootstrap interval"
    parser.add_argument("--interval", choices=get_args(cells.Interval), default="sd", help=spread)
    parser.add_argument("--against", choices=tuple(AGAINST), default="steps", help="what learning curves are over")
    options = parser.parse(arguments)

    from research.interop.export import check_free, whole_folder

    check_free(options.out)
    check_writable(options.out.absolute().parent)
    found = runs.load(options.runs, options.split)
    grid = cells.arrange(found, options.split, options.rows, options.columns, options.scores, options.interval)
    comparable.check(grid)  # before a folder is made
    known = records.read()
    command = shlex.join(["python", "-m", "research", "report", *arguments])
    with whole_folder(options.out) as folder:
        told = write(folder, grid, options.against, known, command)
    of_cells = []
    for (row, column, _), cell in grid.cells.items():
        called = " ".join(filter(None, (grid.row_names[row], grid.column_names[column])))
        said = (*cell.reasons, *cell.remarks)
        of_cells += [text if text.startswith(f"{called}: ") else f"{called}: {text}" for text in said]
    for line in dict.fromkeys([*of_cells, *told]):
        print(f"note: {line}", file=sys.stderr)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"{len(found)} run{'s' if len(found) > 1 else ''} -> {options.out} (open {options.out / 'index.html'})")
    return 0
