"""What is best in a column, and what is not significantly worse: a test of each cell against the best of its column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from research.report import comparable
from research.report.cells import Cell, Grid, units
from research.report.fields import ABSENT
from research.report.runs import LOWER
from research.report.statistics import LEVEL, Paired, attainable, holm, paired
from research.report.tables import Head, Notes, Table, Text


@dataclasses.dataclass
class Comparison:
    """One cell against the best of its column."""

    cell: Cell
    best: Cell
    over: str  # what is paired: documents, examples, seeds
    test: Paired | None
    reason: str  # why nothing is decided, or an empty string
    p: float | None = None  # of the permutation test, corrected by Holm over the decided ones of the column

    def to_json(self, grid: Grid) -> dict[str, Any]:
        """Return what statistics.json says of it."""
        return {
            "score": self.cell.score,
            "column": grid.column_names[self.cell.column],
            "model": grid.row_names[self.cell.row],
            "best": grid.row_names[self.best.row],
            "over": self.over or None,
            "measure": "loss (nats)" if self.over and self.over != "seeds" else self.cell.score if self.over else None,
            **(self.test._asdict() if self.test else {}),
            "holm": self.p,
            "not_tested": self.reason or None,
        }


def compare(grid: Grid) -> list[Comparison]:
    """Mark the best cells of `grid` and those not significantly worse, and return every test."""
    found = []
    for column in grid.column_keys:
        for score in grid.scores:
            for group in comparable.groups(grid, [cell for cell in grid.in_column(column, score) if cell.scored]):
                found += _of_column(group)
    return found


def _of_column(cells: list[Cell]) -> list[Comparison]:
    if len(cells) < 2:
        return []
    worst_first = sorted(cells, key=lambda cell: cell.mean, reverse=cells[0].score in LOWER)
    best = worst_first[-1]
    for cell in cells:
        cell.best = cell.mean == best.mean
    found = [_compared(cell, best) for cell in cells if not cell.best]
    decided = [each for each in found if each.test and not each.reason]
    for each, p in zip(decided, holm([each.test.permutation for each in decided]), strict=True):
        each.p = p
        each.cell.tied = p >= LEVEL
    return found


def _compared(cell: Cell, best: Cell) -> Comparison:
    both, reason = _common_units(cell, best)
    if both:
        first, second, weight = both.first, both.second, both.weight
        return Comparison(cell, best, both.kind, paired(first, second, weight), "")
    ours, theirs = ({run.seed: run.holder(each.score)[each.score] for run in each.scored} for each in (cell, best))
    shared = sorted(ours.keys() & theirs.keys(), key=str)
    if len(shared) < 2:
        return Comparison(cell, best, "", None, f"{reason}, and {_seeds(len(shared))} shared")
    test = paired(np.array([ours[seed] for seed in shared]), np.array([theirs[seed] for seed in shared]))
    least = next(n for n in range(2, 99) if attainable(n) < LEVEL)
    few = f"{len(shared)} shared seeds cannot show a difference at p < {LEVEL:g}, {least} can"
    return Comparison(cell, best, "seeds", test, few if len(shared) < least else "")


def _seeds(n: int) -> str:
    return "no seed is" if n == 0 else f"{n} seed is" if n == 1 else f"{n} seeds are"


class Units(NamedTuple):
    """What both models were scored on: float64[N] each, summed nll averaged over seeds."""

    kind: str
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


def _common_units(cell: Cell, best: Cell) -> tuple[Units | None, str]:
    """Return the units of the same data that all runs of both cells have, or None and why there are none."""
    score = cell.score
    held = [(run, units(run, score)) for run in (*cell.scored, *best.scored)]
    if any(each is None for _, each in held):
        return None, "no scores of single documents or examples are kept"
    kinds = {run.holder(score)["units"].get("kind", "unit") for run, _ in held}
    weights = [weight for _, (_, weight) in held]
    if len(kinds) > 1 or len({len(weight) for weight in weights}) > 1 or len(weights[0]) < 2:
        return None, "the units scored are not the same"
    marks = {comparable.fingerprint(run, score) for run, _ in held}
    if score == "bits_per_byte":  # the bytes of a document are the same whatever its tokens are
        weights = [np.ones(len(weights[0]))]
    elif len(marks) > 1 or any(not np.allclose(weight, weights[0]) for weight in weights):
        return None, "the units scored are not the same"
    means = [np.mean([units(run, score)[0] for run in each.scored], axis=0) for each in (cell, best)]
    return Units(f"{kinds.pop()}s", *means, weights[0]), ""


def table(grid: Grid, comparisons: Sequence[Comparison]) -> Table:
    """Return the tests as a table: difference with its interval, both p-values, the corrected one, and the effect."""
    notes, rows = Notes(), []
    for each in comparisons:
        of = f"{each.cell.score.replace('_', ' ')} {grid.column_names[each.cell.column]}".strip()
        line = [Text(grid.row_names[each.cell.row]), Text(grid.row_names[each.best.row]), Text(of)]
        why = notes.letter(each.reason) if each.reason else ""
        if each.test is None:
            rows.append([*line, Text(ABSENT, why), *[Text(ABSENT)] * 5])
            continue
        test = each.test
        line += [Text(f"{test.n:,} {each.over}"), Text(f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]")]
        line += [Text(_p(test.bootstrap)), Text(_p(test.permutation))]
        line.append(Text(ABSENT, why) if each.p is None else Text(_p(each.p), bold=each.p < LEVEL))
        rows.append([*line, Text(ABSENT if test.effect is None else f"{test.effect:.2f}")])
    heads = ["model", "best", "of", "over", "difference [95 %]", "p (bootstrap)", "p (permutation)", "p (Holm)", "d"]
    said = f"Over documents or examples, differences are of the loss (nats); d: paired Cohen's d; bold: p < {LEVEL:g}."
    reasons = [(letter, reason) for reason, letter in notes.letters.items()]
    return Table("Tests against the best of each column", [list(map(Head, heads))], rows, 3, [("", said), *reasons])


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
