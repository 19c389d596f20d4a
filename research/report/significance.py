"""What is best in a column, and what is not significantly worse: a test of each cell against the best of its column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.report import comparable
from research.report.cells import Cell, Grid
from research.report.fields import ABSENT
from research.report.runs import LOWER
from research.report.statistics import LEVEL, Paired, attainable, holm, paired
from research.report.tables import Head, Notes, Table, Text, called
from research.report.units import Units, units


@dataclasses.dataclass
class Comparison:
    """One cell against the best of its column."""

    cell: Cell
    best: Cell
    over: str  # what is paired: documents, examples, seeds
    test: Paired | None
    reason: str  # why nothing is decided, or an empty string
    p: float | None = None  # of the permutation test, corrected by Holm over the decided ones of the column

    @property
    def measure(self) -> str:
        """What the difference is of: a perplexity is tested by its logarithm, where units are paired."""
        of_units = self.cell.score == "perplexity" and self.over != "seeds"
        return "" if self.test is None else "loss" if of_units else self.cell.score

    @property
    def n(self) -> str:
        """What the test is over: '200 documents in 40 blocks'."""
        within = f" in {self.test.blocks:,} blocks" if self.test.block > 1 else ""
        return f"{self.test.n:,} {self.over}{within}"

    def to_json(self, grid: Grid) -> dict[str, Any]:
        """Return what statistics.json says of it."""
        return {
            "score": self.cell.score,
            "column": grid.column_names[self.cell.column],
            "model": grid.row_names[self.cell.row],
            "best": grid.row_names[self.best.row],
            "over": self.over or None,
            "measure": self.measure or None,
            **(self.test._asdict() | {"blocks": self.test.blocks} if self.test else {}),
            "holm": self.p,
            "not_tested": self.reason or None,
        }


def compare(grid: Grid) -> list[Comparison]:
    """Mark the best cells of `grid` and those not significantly worse, and return every test.

    Args:
        grid: Of scores that can be compared, see `comparable.check`.
    """
    found = []
    for column in grid.column_keys:
        for score in grid.scores:
            found += _of_column([cell for cell in grid.in_column(column, score) if cell.scored])
    return found


def _of_column(cells: list[Cell]) -> list[Comparison]:
    if len(cells) < 2:
        return []
    worst_first = sorted(cells, key=lambda cell: cell.mean, reverse=cells[0].score in LOWER)
    best = worst_first[-1]
    for cell in cells:
        cell.best = cell.mean == best.mean
    found = [_compared(cell, best) for cell in cells if not cell.best]
    tested = [each for each in found if each.test]
    for each in tested:
        each.reason = _too_few(each, len(tested))
    decided = [each for each in tested if not each.reason]
    for each, p in zip(decided, holm([each.test.permutation for each in decided]), strict=True):
        each.p = p
        each.cell.tied = p >= LEVEL
    return found


def _compared(cell: Cell, best: Cell) -> Comparison:
    both, reason = _common_units(cell, best)
    if both:
        test = paired(both[0].values, both[1].values, both[0].weight, both[0].block)
        return Comparison(cell, best, f"{both[0].kind}s", test, "")
    ours, theirs = ({run.seed: run.holder(each.score)[each.score] for run in each.scored} for each in (cell, best))
    shared = sorted(ours.keys() & theirs.keys(), key=str)
    if len(shared) < 2:
        return Comparison(cell, best, "", None, f"{reason}, and {_seeds(len(shared))} shared")
    test = paired(np.array([ours[seed] for seed in shared]), np.array([theirs[seed] for seed in shared]))
    return Comparison(cell, best, "seeds", test, "")


def _too_few(each: Comparison, tests: int) -> str:
    """Return why nothing is decided by the least p that its swaps can give as one of `tests`, or an empty string."""
    least = next((n for n in range(2, 99) if attainable(n) * tests < LEVEL), 99)
    if each.test.blocks >= least:
        return ""
    what = f"{each.test.n} {'shared ' * (each.over == 'seeds')}{each.over}"
    return f"{what} cannot show a difference at p < {LEVEL:g}{f' in {tests} tests' * (tests > 1)}, {least} can"


def _seeds(n: int) -> str:
    return "no seed is" if n == 0 else f"{n} seed is" if n == 1 else f"{n} seeds are"


def _common_units(cell: Cell, best: Cell) -> tuple[tuple[Units, Units] | None, str]:
    """Return the units of both cells, values averaged over their seeds, or None and why they cannot be paired."""
    score, runs = cell.score, [*cell.scored, *best.scored]
    held = [units(run, score) for run in runs]
    if any(each is None for each in held):
        return None, "no scores of single documents or examples are kept"
    others = "the units scored are not the same"
    if len({(each.kind, len(each.weight)) for each in held}) > 1 or len(held[0].weight) < 2:
        return None, others
    same = len({comparable.fingerprint(run, score) for run in runs}) == 1
    if score == "bits_per_byte" and (same or held[0].kind == "document"):
        # A document's bytes are the same whatever its tokens are; how many it has is not kept, so all count alike.
        nats = runs[0].evaluated["loss"] * held[0].weight.sum() / (runs[0].evaluated["bits_per_byte"] or 1.0)
        weight = np.full(len(held[0].weight), nats / len(held[0].weight))
    elif any(not np.allclose(each.weight, held[0].weight) for each in held) or not (same or held[0].kind == "example"):
        return None, others
    else:
        weight = held[0].weight
    means = (np.mean([units(run, score).values for run in each.scored], axis=0) for each in (cell, best))
    return tuple(Units(held[0].kind, values, weight) for values in means), ""


def table(grid: Grid, comparisons: Sequence[Comparison]) -> Table:
    """Return the tests as a table: difference with its interval, both p-values, the corrected one, and the effect."""
    notes, rows = Notes(), []
    for each in comparisons:
        of = f"{called(each.cell.score)} {grid.column_names[each.cell.column]}".strip()
        line = [Text(grid.row_names[each.cell.row]), Text(grid.row_names[each.best.row]), Text(of)]
        why = notes.letter(each.reason) if each.reason else ""
        if each.test is None:
            rows.append([*line, *[Text(ABSENT, why)] * 6])
            continue
        test = each.test
        line += [Text(each.n), Text(f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]")]
        line += [Text(_p(test.bootstrap)), Text(_p(test.permutation))]
        line.append(Text(ABSENT, why) if each.p is None else Text(_p(each.p), bold=each.p < LEVEL))
        same = notes.letter("all differences are the same") if test.effect is None else ""
        rows.append([*line, Text(ABSENT, same) if same else Text(f"{test.effect:.2f}")])
    if not comparisons:
        said = "There are no two scores of one column to test."
    heads = ["model", "best", "of", "over", "difference [95 %]", "p bootstrap", "p permuted", "p Holm", "d"]
    said = "Differences of perplexity are of the loss (nats), except over seeds; "
    said += f"those of several seeds are averaged first; d: paired Cohen's d; bold: p < {LEVEL:g}."
    if any(each.test and each.test.block > 1 for each in comparisons):
        said += " Neighbours in a text are not independent: tests resample and swap blocks of them."
    reasons = [(letter, reason) for reason, letter in notes.letters.items()]
    return Table("Tests against the best of each column", [list(map(Head, heads))], rows, 3, [("", said), *reasons])


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<\u00a00.001"
