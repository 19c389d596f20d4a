"""Runs arranged by fields of their configurations; those that differ by seed alone are one cell, a mean and spread."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from research.report import fields
from research.report.intervals import in_blocks, interval, percentiles, resampled_sums
from research.report.logs import is_number
from research.report.runs import Logged
from research.report.units import units
from research.types import UserError, did_you_mean

Interval = Literal["sd", "bootstrap"]
Key = tuple[Any, ...]
IMPOSSIBLE = ("loss", "perplexity", "bits_per_byte")  # infinite of a text with a token that a model thinks impossible
DEFAULTS = ("perplexity", "bleu", "rougeL", "f1", "macro_f1", "accuracy", "pearson", "loss")


@dataclasses.dataclass
class Cell:
    """One score of the runs of one row and column."""

    row: Key
    column: Key
    score: str
    runs: list[Logged]
    scored: list[Logged]  # those that are finished and were evaluated
    mean: float | None
    spread: float | None  # standard deviation over seeds, None where there is one
    low: float | None  # ends of what bars and bands show
    high: float | None
    reasons: list[str]  # why runs are left out
    remarks: list[str]  # what a reader must know of those that are not
    best: bool = False
    tied: bool = False  # not significantly worse than the best

    @property
    def n(self) -> int:
        """The number of runs that the mean is over."""
        return len(self.scored)

    @property
    def dirty(self) -> bool:
        """Whether a run comes from a working tree with uncommitted changes."""
        return any(run.dirty for run in self.runs)

    @property
    def unversioned(self) -> bool:
        """Whether no commit is known that a run comes from."""
        return any(run.unversioned for run in self.runs)


@dataclasses.dataclass
class Grid:
    """Cells by row, column and score."""

    rows: list[str]  # paths of the fields that make rows
    columns: list[str]
    split: str
    scores: list[str]
    interval: Interval
    row_keys: list[Key]
    column_keys: list[Key]
    runs: list[Logged]
    cells: dict[tuple[Key, Key, str], Cell]

    def of_row(self, row: Key) -> list[list[Logged]]:
        """Return the finished runs of each cell of `row`, of any score: what its costs are of."""
        places = [[run for run in self.runs if self.place(run) == (row, column)] for column in self.column_keys]
        return [found for runs in places if (found := [run for run in runs if run.end])]

    def in_column(self, column: Key, score: str) -> Iterator[Cell]:
        """Yield the cells of one column."""
        return (self.cells[row, column, score] for row in self.row_keys)

    def place(self, run: Logged) -> tuple[Key, Key]:
        """Return the keys of the row and the column that `run` belongs to."""
        return key(run, self.rows), key(run, self.columns)

    def names(self, paths: Sequence[str], keys: Sequence[Key]) -> dict[Key, list[str]]:
        """Return the shown values of each key of `keys`, one a path."""
        values = list(zip(*keys, strict=True))
        return {each: [fields.shown(v, values[i]) for i, v in enumerate(each)] for each in keys} if paths else {(): []}

    @property
    def row_names(self) -> dict[Key, str]:
        """What each row is called in figures: the values of its fields, numbers with what they are of."""
        return self._called(self.rows, self.row_keys)

    @property
    def column_names(self) -> dict[Key, str]:
        """What each column is called in figures; empty where there is one."""
        return self._called(self.columns, self.column_keys)

    def _called(self, paths: list[str], keys: list[Key]) -> dict[Key, str]:
        heads, values = fields.heads(paths), self.names(paths, keys)

        def called(each: Key) -> str:
            parts = list(zip(heads, values[each], each, strict=True))
            parts = [part for part in parts if part[1] != fields.ABSENT] or parts
            return ", ".join(text if isinstance(value, str) and value else f"{head} {text}" for head, text, value in parts)

        return {each: called(each) for each in keys}


def key(run: Logged, paths: Sequence[str]) -> Key:
    """Return the values of a run's fields, hashable."""
    return tuple(_hashable(run.fields.get(path)) for path in paths)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else repr(value) if isinstance(value, dict) else value


def arrange(
    runs: Sequence[Logged],
    split: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    scores: Sequence[str] = (),
    spread: Interval = "sd",
) -> Grid:
    """Return the cells of `runs`.

    Args:
        runs: At least one.
        split: Whose scores are shown.
        rows: Fields, whole or short names; empty: those that tell the runs apart.
        columns: Fields; each combination of their values has its own columns of scores.
        scores: Names; empty: the one that the runs are usually told by.
        spread: Standard deviation over seeds; or the 95 % bootstrap interval over seeds, over units of one run.

    Raises:
        UserError: A field or score is unknown, or a field is row and column; or runs of one cell differ in more than
            their seed, or not at all.
    """
    columns = list(dict.fromkeys(fields.find(name, runs) for name in columns))
    rows = list(dict.fromkeys(fields.find(name, runs) for name in rows))
    if both := [path for path in rows if path in columns]:
        raise UserError(f"{both[0]} is both in --rows and in --columns: leave it out of one")
    rows = rows or [path for path in fields.telling(runs) if path not in columns] or ["name"]
    scores = list(dict.fromkeys(scores)) or default_scores(runs)
    _check_scores(scores, runs, split)
    row_keys, column_keys = _ordered([key(run, rows) for run in runs]), _ordered([key(run, columns) for run in runs])
    grid = Grid(rows, columns, split, scores, spread, row_keys, column_keys, list(runs), {})
    for row in row_keys:
        for column in column_keys:
            here = [run for run in runs if grid.place(run) == (row, column)]
            check_seeds(here, "seed" in (*rows, *columns))
            for score in scores:
                grid.cells[row, column, score] = _cell(row, column, score, here, split, spread)
    return grid


def default_scores(runs: Sequence[Logged]) -> list[str]:
    """Return the score that most tells of what the runs hold: perplexity, or what tasks are usually told by."""
    held = {name for run in runs for name in run.scores}
    chosen = [run.resolved.get("best_by") for run in runs if run.resolved.get("best_by") not in (None, "loss")]
    return [next((name for name in [*chosen, *DEFAULTS] if name in held), "perplexity")]


def check_seeds(runs: Sequence[Logged], by_seed: bool = False) -> None:
    """Refuse runs of one cell that are not the same but for their seeds.

    Raises:
        UserError: They differ in another field, which is to be a row or column; or two have the same seed.
    """
    for other in runs[1:]:
        differ = fields.differing([runs[0], other])
        if differ:
            path = differ[0]
            values = " and ".join(fields.shown(run.fields.get(path)) for run in (runs[0], other))
            raise UserError(
                f"{runs[0].id} and {other.id} would be one cell, but differ in {path} ({values}): name it in --rows or "
                "--columns"
            )
    seen: dict[Any, Logged] = {}
    for run in runs:
        if run.seed in seen:
            both = f"{seen[run.seed].id} and {run.id}"
            raise UserError(f"{both} are the same run, seed {run.seed} of one configuration: leave one out")
        seen[run.seed] = run


def _check_scores(scores: Sequence[str], runs: Sequence[Logged], split: str) -> None:
    held = list(dict.fromkeys(name for run in runs for name in run.scores))
    for name in scores:
        if held and name not in held:
            hint = did_you_mean(name, held) or ": there are " + ", ".join(held)
            raise UserError(f"--scores {name}: no run has it of its {split} split{hint}")


def _ordered(keys: list[Key]) -> list[Key]:
    """Return the keys once each: by size where all are numbers, else in the order of the runs."""
    found = list(dict.fromkeys(keys))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for each in found for v in each)
    return sorted(found) if numbers else found


def _cell(row: Key, column: Key, score: str, runs: list[Logged], split: str, kind: Interval) -> Cell:
    missing = {run.id: reason for run in runs if (reason := _missing(run, score, split))}
    scored = [run for run in runs if run.id not in missing]
    # One reason of several runs is told once, with a command where one mends it.
    reasons = list(dict.fromkeys(missing.values())) if runs else ["no such run was given"]
    values = np.array([run.holder(score)[score] for run in scored], np.float64)
    if not scored:
        return Cell(row, column, score, runs, scored, None, None, None, None, reasons, [])
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    low = high = None
    if kind == "bootstrap":
        low, high = _bootstrapped(scored, score, values) or (None, None)
    elif deviation is not None:
        low, high = mean - deviation, mean + deviation
    remarks = list(dict.fromkeys(remark for run in scored for remark in run.remarks(score)))
    return Cell(row, column, score, runs, scored, mean, deviation, low, high, reasons, remarks)


def _missing(run: Logged, score: str, split: str) -> str:
    """Return why there is no such score of `run`, or an empty string."""
    if run.unfinished:
        return f"{run.id}: {run.unfinished}"
    if run.holder(score):
        return ""
    if run.facts.get("parts") and not run.evaluated:
        return f"{run.id} is a mixture not scored on {split}: interpolate its parts again, with --split {split}"
    if not (run.evaluated or run.generated):
        return f"not evaluated on {split}: python -m research evaluate {shlex.quote(str(run.folder))} --split {split}"
    if score in IMPOSSIBLE and run.evaluated.get(score, 0) is None:
        return f"{run.id} gives some of the {split} split no probability: its {score} is infinite"
    return f"{run.id} has no {score} of its {split} split"


def _bootstrapped(runs: list[Logged], score: str, values: np.ndarray) -> list[float] | None:
    """Return the 95 % percentile interval over seeds or, of one run, over its units; None without either."""
    if len(values) > 1:
        return interval(resampled_sums(values[:, None])[:, 0] / len(values))
    held, found = runs[0].holder(score), units(runs[0], score)
    if found is None:
        return _kept(held.get(f"{score}_interval"))
    sums = in_blocks(np.stack([found.values, found.weight], axis=1), found.block)
    if len(sums) < 2:
        return None
    drawn = resampled_sums(sums)
    ends = percentiles(drawn[:, 0] / drawn[:, 1])
    if score == "perplexity":
        return [float(np.exp(end)) for end in ends]
    scale = held[score] / (held["loss"] or 1.0) if score == "bits_per_byte" else 1.0  # a multiple of the loss
    return [float(end * scale) for end in ends]


def _kept(ends: object) -> list[float] | None:
    """Return the interval over examples that `evaluate` found, where it did."""
    return list(ends) if isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)) else None
