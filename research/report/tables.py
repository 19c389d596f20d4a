"""A table apart from its format: heads over columns, cells of text that may be bold, underlined or noted, and notes."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from research.report import costs, fields
from research.report.cells import Cell, Grid
from research.report.statistics import LEVEL

if TYPE_CHECKING:
    from research.report.records import Published
    from research.report.significance import Comparison

DIRTY, UNVERSIONED = "†", "‡"
MARKS = {
    DIRTY: "from a working tree with changes that no commit holds, or started from such a run",
    UNVERSIONED: "from code outside git, or started from such a run: no commit is known",
}
SEEDS = 10  # of fewer, a percentile bootstrap is far too narrow: of 2, half of the intervals hold the mean
NO_FIELD = "its configuration has no such field, or an empty one"
NAMES = {"bleu": "BLEU", "chrf": "chrF", "macro_f1": "macro F1", "f1": "F1", "loss": "loss (nats)"}


class Text(NamedTuple):
    """One cell."""

    text: str
    notes: str = ""  # letters of the notes that it refers to, and marks
    bold: bool = False
    underlined: bool = False
    pad: str = ""  # set unseen behind the text, so that means stand below one another


class Head(NamedTuple):
    """One head, over `span` columns."""

    text: str
    span: int = 1


class Table(NamedTuple):
    """Rows of equal length under one row of heads, or two."""

    title: str
    heads: list[list[Head]]
    rows: list[list[Text]]
    left: int  # columns that hold words and are aligned left; the others are numbers
    notes: list[tuple[str, str]]  # (letter or mark, text), below


class Notes:
    """Letters for reasons, the same reason the same letter."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def letter(self, reason: str) -> str:
        """Return the letter of `reason`, a new one where it is new."""
        i = len(self.letters)
        name = (string.ascii_lowercase[i // 26 - 1] if i >= 26 else "") + string.ascii_lowercase[i % 26]
        return self.letters.setdefault(reason, name)


def marks(dirty: bool, unversioned: bool) -> str:
    """Return the marks of what was computed by code that cannot be got back."""
    return DIRTY * dirty + UNVERSIONED * unversioned


def explained(found: Iterable[Text]) -> list[tuple[str, str]]:
    """Return the notes of the marks that are there."""
    used = {mark for text in found for mark in MARKS if mark in text.notes}
    return [(mark, said) for mark, said in MARKS.items() if mark in used]


def called(score: str) -> str:
    """Return what a score is called in heads and figures."""
    return NAMES.get(score, score.replace("_", " "))


def results(grid: Grid, comparisons: Sequence[Comparison], known: Mapping[str, dict[str, list[Published]]]) -> Table:
    """Return the table of results: rows' fields, scores of each column, and what each row cost.

    Args:
        grid: The cells.
        comparisons: Of the best cell of each column with the others.
        known: {score: {name of a run: its published figures}}; beside columns of scores that have any.
    """
    notes, cost_columns = Notes(), [costs.column(grid, name) for name in costs.NAMES]
    places = {score: decimals(grid, score) for score in grid.scores}
    row_names, column_names = grid.names(grid.rows, grid.row_keys), grid.column_names
    body = []
    wide = [(column, score) for column in grid.column_keys for score in grid.scores]
    beside = {at for at in wide if any(published_of(grid.cells[row, *at], known) for row in grid.row_keys)}
    for row in grid.row_keys:
        cells = [grid.cells[row, *at] for at in wide]
        line = [Text(value, notes.letter(NO_FIELD) if value == fields.ABSENT else "") for value in row_names[row]]
        marked = marks(any(cell.dirty for cell in cells), any(cell.unversioned for cell in cells))
        line[0] = line[0]._replace(notes=",".join(filter(None, (line[0].notes, marked))))
        runs = max(cell.n for cell in cells)
        line.append(Text(str(runs)))
        for at, cell in zip(wide, cells, strict=True):
            line.append(score_text(cell, places[cell.score], grid.interval, notes, runs))
            if at in beside:
                absent = "no published figure is recorded" if cell.runs else cell.reasons[0]
                line.append(_figures(published_of(cell, known), absent, notes))
        for cost in cost_columns:
            text, reason = cost.text(grid.of_row(row))
            line.append(Text(text, notes.letter(reason) if reason else ""))
        body.append(line)
    for i in range(len(grid.rows) + 1, len(body[0]) - len(cost_columns)):
        for line, text in zip(body, _padded([line[i] for line in body]), strict=True):
            line[i] = text
    first = [*map(Head, fields.heads(grid.rows)), Head("runs")]
    last = [Head(cost.head) for cost in cost_columns]
    scores = [Head(text) for at in wide for text in [called(at[1]), *["published"] * (at in beside)]]
    heads = [[*first, *scores, *last]]
    if grid.columns:
        spans = {column: sum(1 + (at in beside) for at in wide if at[0] == column) for column in grid.column_keys}
        over = [Head(column_names[column], span) for column, span in spans.items()]
        heads.insert(0, [Head("", len(first)), *over, Head("", len(last))])
    title = f"{', '.join(map(called, grid.scores))} on the {grid.split} split"
    reasons = [(letter, reason) for reason, letter in notes.letters.items()]
    said = _said(grid, comparisons) + explained(text for line in body for text in line)
    return Table(title[:1].upper() + title[1:], heads, body, len(grid.rows), said + reasons)


def published_of(cell: Cell, known: Mapping[str, dict[str, list[Published]]]) -> list[Published]:
    """Return the published figures that the runs of a cell reproduce, whether or not they have a score yet."""
    figures = known.get(cell.score, {})
    return next((figures[name] for run in cell.runs if (name := run.fields.get("name")) in figures), [])


def _figures(figures: Sequence[Published], absent: str, notes: Notes) -> Text:
    if not figures:
        return Text(fields.ABSENT, notes.letter(absent))
    letters = (notes.letter(f"published: {figure.source}") for figure in figures)
    return Text(" / ".join(f"{figure.value:,g}" for figure in figures), ",".join(letters))


def score_text(cell: Cell, decimals: int, kind: str, notes: Notes, runs: int) -> Text:
    """Return a cell's mean with its spread or interval, or a dash; noted are reasons, remarks and fewer than `runs`."""
    fewer = [f"n = {cell.n}"] if 0 < cell.n < runs else []
    letters = ",".join(notes.letter(reason) for reason in (*cell.reasons, *cell.remarks, *fewer))
    if cell.mean is None:
        return Text(fields.ABSENT, letters)
    text = f"{cell.mean:,.{decimals}f}"
    if kind == "bootstrap" and cell.low is not None:
        text += f" [{cell.low:,.{decimals}f}, {cell.high:,.{decimals}f}]"
    elif kind == "sd" and cell.spread is not None:
        text += f" ± {cell.spread:,.{decimals}f}"
    return Text(text, letters, cell.best, cell.tied)


def _padded(column: Sequence[Text]) -> list[Text]:
    """Return the cells of a column, those without a spread padded by the longest one there."""
    spreads = [mean.text[len(mean.text.split(" ")[0]) :] for mean in column]
    longest = max(spreads, key=len)
    plain = [not spread and mean.text != fields.ABSENT for mean, spread in zip(column, spreads, strict=True)]
    return [mean._replace(pad=longest) if alone else mean for mean, alone in zip(column, plain, strict=True)]


def decimals(grid: Grid, score: str) -> int:
    """Return how many decimals give the smallest value four significant digits, three where it is below 1."""
    known = [abs(cell.mean) for cell in grid.cells.values() if cell.score == score and cell.mean]
    if not known:
        return 2
    least = math.floor(math.log10(min(known)))
    return 3 if least < 0 else max(0, 3 - least)


def _said(grid: Grid, comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Return what the marks and intervals mean, only of those that are there."""
    cells, said = list(grid.cells.values()), []
    seeds, alone = (any(cell.low is not None and (cell.n > 1) is many for cell in cells) for many in (True, False))
    if seeds or alone:
        over = " and ".join(["over seeds"] * seeds + ["of one run over documents, rows or examples"] * alone)
        said.append(f"mean {'± standard deviation' if grid.interval == 'sd' else '[95 % bootstrap interval]'} {over}")
    if any(cell.best for cell in cells):
        said.append("best in bold")
    decided = [each for each in comparisons if each.p is not None]
    if decided:
        over = " or ".join(dict.fromkeys(each.n for each in decided))
        tied = any(cell.tied for cell in cells)
        what = "underlined: not significantly worse" if tied else "all others tested are significantly worse"
        said.append(f"{what} (paired permutation test over {over}, Holm-corrected, p {'≥' if tied else '<'} {LEVEL:g})")
    found = [("", _sentence("; ".join(said)))] if said else []
    few = sorted({cell.n for cell in cells if cell.low is not None and 1 < cell.n < SEEDS})
    if few and grid.interval == "bootstrap":
        over = " or ".join(map(str, few))
        found.append(("", f"Bootstrap intervals over {over} seeds are too narrow: they hold the mean in less than 95 %."))
    corrupted = {str(run.objective.get("name")).replace("_", " ") for cell in cells for run in cell.scored} - {"causal"}
    if corrupted and "perplexity" in grid.scores:
        names = ", ".join(sorted(corrupted))
        found.append(("", f"Perplexity under {names} is of the tokens that are predicted, not of a whole text."))
    for reason in dict.fromkeys(each.reason for each in comparisons if each.reason):
        rows = [grid.row_names[each.cell.row] for each in comparisons if each.reason == reason]
        what = "Not tested" if len(rows) == len(comparisons) else f"Not tested: {', '.join(dict.fromkeys(rows))}"
        found.append(("", f"{what} ({reason})."))
    return found


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
