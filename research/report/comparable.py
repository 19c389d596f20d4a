"""Whether scores of two runs may stand in one column: same text, same objective, same tokens."""

from __future__ import annotations

import math
import pathlib
from typing import Any

from research.report.cells import Cell, Grid
from research.report.runs import Logged
from research.types import UserError

OF_TOKENS = ("loss", "perplexity", "accuracy")  # means over tokens: of other tokens they say another thing
LABELLED = ("classification", "tagging")
TASKS = (*LABELLED, "seq2seq", "completion")
DECISIVE = ("name", "problem", "labels", "label", "tags", "target", "scheme", "scored")
TRAINING_ONLY = ("train", "share", "weight", "path")


def check(grid: Grid) -> None:
    """Refuse a table in one of whose columns are scores that cannot be compared.

    Raises:
        UserError: 'not comparable', with two runs, in what they differ, and what to do.
    """
    for column in grid.column_keys:
        for score in grid.scores:
            groups(grid, [cell for cell in grid.in_column(column, score) if cell.scored])


def groups(grid: Grid, cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells of a column by the data that they were evaluated on: one group, unless rows tell the data.

    Raises:
        UserError: As `check`.
    """
    told = any(path.startswith("data.") for path in (*grid.rows, *grid.columns))
    found: list[list[Cell]] = []
    for cell in cells:
        for run in cell.scored:
            for other in (each for group in found for each in group[:1]):
                _refuse_other_objective(other.scored[0], run, cell.score)
            if reason := _other_data(cell.scored[0], run, cell.score):
                raise UserError(reason)
        reasons = [_other_data(group[0].scored[0], cell.scored[0], cell.score) for group in found]
        if "" in reasons:
            found[reasons.index("")].append(cell)
        elif reasons and not told:
            raise UserError(reasons[0])
        else:
            found.append([cell])
    return found


def apart(grid: Grid, runs: list[Logged], score: str) -> str:
    """Return why scores of `runs` over training may not be drawn in one panel, or an empty string."""
    told = any(path.startswith("data.") for path in (*grid.rows, *grid.columns))
    for run in runs[1:]:
        both = f"{runs[0].id} and {run.id}"
        if _kind(run) != _kind(runs[0]):
            return f"{both} have different objectives"
        if not told and _text(run) != _text(runs[0]):
            return f"{both} have different data"
        if score in OF_TOKENS and run.objective.get("name") not in LABELLED and run.tokenizer != runs[0].tokenizer:
            return f"{both} have different tokenizers"
    return ""


def _refuse_other_objective(a: Logged, b: Logged, score: str) -> None:
    if a.holder(score) is a.generated or b.holder(score) is b.generated:
        return  # scores of texts, however they were made
    if _kind(a) != _kind(b):
        first, second = (_objective(run, a.objective.get("name") == b.objective.get("name")) for run in (a, b))
        raise UserError(
            f"not comparable: the {score} of {a.id} is of {first}, that of {b.id} of {second}; give objectives columns "
            "of their own (--columns objective.name) or leave one out"
        )


def _kind(run: Logged) -> Any:
    """Return what of the objective decides what is predicted: of a task its labels, of corruption all."""
    name = run.objective.get("name")
    if name in TASKS:
        return {field: run.objective.get(field) for field in DECISIVE}
    return name if name == "causal" else run.objective


def _objective(run: Logged, whole: bool) -> str:
    values = run.objective
    name = {"masked": "masked tokens (pseudo-perplexity is no perplexity)", "causal": "next tokens"}.get(
        values.get("name"), str(values.get("name")).replace("_", " ")
    )
    more = ", ".join(f"{k} {v}" for k, v in values.items() if k != "name") if whole else ""
    return f"{name} ({more})" if more else name


def _other_data(a: Logged, b: Logged, score: str) -> str:
    """Return why scores of `a` and `b` are not of the same data, or an empty string.

    The fingerprint of a split is of its tokens, so another tokenizer has another; the text is then told by what was
    read and by how much of it was scored.
    """
    first, second = fingerprint(a, score), fingerprint(b, score)
    if first == second and first is not None:
        return ""
    other_tokens = a.tokenizer != b.tokenizer and None not in (a.tokenizer, b.tokenizer)
    labelled = a.objective.get("name") in LABELLED
    same_text = _text(a) == _text(b) and _as_much(a, b, score)
    may_differ = other_tokens or a.objective.get("name") in TASKS or None in (first, second)
    if same_text and may_differ:
        if other_tokens and score in OF_TOKENS and not labelled:
            raise UserError(
                f"not comparable: {a.id} and {b.id} have different tokenizers, so {score} is a mean over different "
                "tokens: give --scores bits_per_byte"
            )
        return ""
    return (
        f"not comparable: {a.id} was evaluated on {place(a)} ({a.split}, fingerprint {_short(first)}), {b.id} on "
        f"{place(b)} ({b.split}, fingerprint {_short(second)}): give data columns of their own "
        "(--columns data.sources.0.path) or leave one out"
    )


def fingerprint(run: Logged, score: str) -> str | None:
    """Return the fingerprint of the data that a score is of, as `evaluate` recorded it, or the run."""
    return run.holder(score).get("fingerprint") or (run.facts.get("fingerprints") or {}).get(run.split)


def place(run: Logged) -> str:
    """Return the last part of the path of each source of `run`."""
    return " + ".join(pathlib.PurePath(source.get("path", "")).name for source in _sources(run)) or "unnamed data"


def _sources(run: Logged) -> list[dict[str, Any]]:
    return (run.resolved.get("data") or {}).get("sources") or []


def _text(run: Logged) -> Any:
    cleaning = {k: v for k, v in ((run.resolved.get("data") or {}).get("cleaning") or {}).items() if "overlap" not in k}
    read = [{k: v for k, v in source.items() if k not in TRAINING_ONLY} for source in _sources(run)]
    return place(run), read, cleaning


def _as_much(a: Logged, b: Logged, score: str) -> bool:
    """Return whether as many examples, or bytes of text within 1 % (a last row may be cut), were scored."""
    first, second = a.holder(score), b.holder(score)
    if "examples" in first and "examples" in second:
        return first["examples"] == second["examples"]
    found = [_bytes(held) for held in (first, second)]
    return None in found or abs(found[0] - found[1]) <= 0.01 * max(found)


def _bytes(held: dict[str, Any]) -> float | None:
    if not (held.get("bits_per_byte") and held.get("loss") and held.get("scored")):
        return None
    return held["loss"] * held["scored"] / math.log(2) / held["bits_per_byte"]


def _short(fingerprint: str | None) -> str:
    return fingerprint[:8] if fingerprint else "not recorded"
