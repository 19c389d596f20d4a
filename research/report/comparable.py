"""Whether scores of two runs may stand in one column, or one table: same text, same objective, same tokens."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from research.report.cells import Grid, Key
from research.report.runs import Logged
from research.types import UserError

OF_TOKENS = ("loss", "perplexity", "accuracy")  # means over tokens: of other tokens they say another thing
LABELLED = ("classification", "tagging")
TASKS = (*LABELLED, "seq2seq", "completion")
DECISIVE = ("name", "problem", "labels", "label", "tags", "target", "scheme", "scored")
CUT_BY = ("length", "cross_documents")  # fields of the data that rows, and so masks, depend on
TRAINING_ONLY = ("train", "share", "weight", "path")
TEXT = ("data.sources.", "data.cleaning.", "data.framing", "data.unknown")  # fields that tell data, and so on
TOKENS = ("data.tokenizer.", *TEXT)
OBJECTIVE = ("objective.",)
MASKS = (*OBJECTIVE, *(f"data.{name}" for name in CUT_BY))


class Difference(NamedTuple):
    """Why two scores are not comparable."""

    told_by: tuple[str, ...]  # beginnings of fields; columns that differ in one of them keep the two apart
    reason: str
    remedy: str


def check(grid: Grid) -> None:
    """Refuse a table with scores that cannot be compared: in one column, or in two that do not tell them apart.

    Raises:
        UserError: 'not comparable', with two runs, in what they differ, and what to do.
    """
    for score in grid.scores:
        found: dict[Key, list[Logged]] = {}
        for column in grid.column_keys:
            if runs := [run for cell in grid.in_column(column, score) for run in cell.scored]:
                found[column] = runs
        for i, (column, runs) in enumerate(found.items()):
            for run in runs[1:]:
                _refuse(differences(runs[0], run, score))
            for other in list(found)[:i]:
                untold = differences(found[other][0], runs[0], score)
                _refuse([each for each in untold if not _told(grid.columns, other, column, each.told_by)])


def _refuse(found: list[Difference]) -> None:
    for each in found:
        raise UserError(f"not comparable: {each.reason}: {each.remedy}")


def _told(paths: Sequence[str], first: Key, second: Key, told_by: tuple[str, ...]) -> bool:
    """Return whether the heads of two columns say in what their scores differ."""
    keys = zip(paths, first, second, strict=True)
    return any(path.startswith(told_by) and a != b for path, a, b in keys)


def differences(a: Logged, b: Logged, score: str) -> list[Difference]:
    """Return why a score of `a` and that of `b` cannot be compared; nothing where they can."""
    found = [each for each in (_of_objectives(a, b, score), _of_data(a, b, score)) if each]
    return found or [each for each in [_of_tokens(a, b, score)] if each]


def apart(runs: Sequence[Logged], score: str) -> str:
    """Return why scores of `runs` over training may not be drawn in one panel, or an empty string."""
    for run in runs[1:]:
        both = f"{runs[0].id} and {run.id}"
        if _kind(run) != _kind(runs[0]):
            return f"{both} have different objectives"
        first, second = ((each.facts.get("fingerprints") or {}).get("validation") for each in (runs[0], run))
        tokenizers = _other_tokens(runs[0], run)
        may_differ = tokenizers or run.objective.get("name") in TASKS or None in (first, second)
        if (first != second and not may_differ) or _text(run) != _text(runs[0]):
            return f"{both} have different data"
        if score in OF_TOKENS and run.objective.get("name") not in LABELLED and tokenizers:
            return f"{both} have different tokenizers"
    return ""


# --- objectives -------------------------------------------------------------------------------------------------------


def _of_objectives(a: Logged, b: Logged, score: str) -> Difference | None:
    made = [run.holder(score) is run.generated for run in (a, b)]
    leave = "or leave one out"
    if all(made):
        return None  # scores of texts, however they were made
    if any(made):
        first, second = (run.id for run in ((a, b) if made[0] else (b, a)))
        reason = f"the {score} of {first} is of texts that it wrote, that of {second} is not"
        return Difference((), reason, "leave one out")
    if _kind(a) == _kind(b):
        return None
    if a.objective == b.objective:
        words = (f"{run.id} of " + ", ".join(f"{k} {v}" for k, v in _cut(run).items()) for run in (a, b))
        reason = f"rows of other lengths have other masks, and {' and '.join(words)} have"
        return Difference(MASKS, reason, f"give rows columns of their own (--columns data.length) {leave}")
    same_name = a.objective.get("name") == b.objective.get("name")
    first, second = (_objective(run, same_name) for run in (a, b))
    reason = f"the {score} of {a.id} is of {first}, that of {b.id} of {second}"
    fields = [name for name in {**a.objective, **b.objective} if a.objective.get(name) != b.objective.get(name)]
    column = f"objective.{'name' if not same_name else fields[0]}"
    return Difference(OBJECTIVE, reason, f"give objectives columns of their own (--columns {column}) {leave}")


def _kind(run: Logged) -> Any:
    """Return what decides what is predicted: of a task its labels, of corruption all, with how rows are cut."""
    name = run.objective.get("name")
    if name in TASKS:
        return {field: run.objective.get(field) for field in DECISIVE}
    return name if name == "causal" else (run.objective, _cut(run))


def _cut(run: Logged) -> dict[str, Any]:
    data = run.resolved.get("data") or {}
    return {name: data.get(name) for name in CUT_BY}


def _objective(run: Logged, whole: bool) -> str:
    values = run.objective
    name = {"masked": "masked tokens (pseudo-perplexity is no perplexity)", "causal": "next tokens"}.get(
        values.get("name"), str(values.get("name")).replace("_", " ")
    )
    more = ", ".join(f"{k} {v}" for k, v in values.items() if k != "name") if whole else ""
    return f"{name} ({more})" if more else name


# --- data and tokens --------------------------------------------------------------------------------------------------


def _of_data(a: Logged, b: Logged, score: str) -> Difference | None:
    """Return why scores of `a` and `b` are not of the same text; None where they are.

    The fingerprint of a split is of its tokens, so another tokenizer has another; that of a task is also of how its
    rows are made. The text is then told by what was read, and by how much of it was scored.
    """
    first, second = fingerprint(a, score), fingerprint(b, score)
    remedy = "give data columns of their own (--columns data.sources.0.path) or leave one out"
    if None in (first, second):
        run = a if first is None else b
        reason = f"of what {run.id} was scored on no fingerprint is recorded, so nothing says that it is what "
        reason += f"{(b if run is a else a).id} was scored on"
        return Difference((), reason, f"evaluate {run.id} again or leave it out")
    by_example = all(run.objective.get("name") in TASKS for run in (a, b)) or a.holder(score) is a.generated
    if first != second and not ((by_example or _other_tokens(a, b)) and _text(a) == _text(b)):
        marks = [f"{place(run)} ({run.split}, fingerprint {mark[:8]})" for run, mark in ((a, first), (b, second))]
        return Difference(TEXT, f"{a.id} was evaluated on {marks[0]}, {b.id} on {marks[1]}", remedy)
    if first == second and not by_example:
        return None  # the same tokens: `_of_tokens` counts them
    # Another tokenizer makes more or less of the text's first token, which has nothing to be predicted from.
    amounts, near = ([_examples(run, score) for run in (a, b)], 0) if by_example else ([_bytes(a), _bytes(b)], 0.01)
    if None in amounts or abs(amounts[0] - amounts[1]) <= near * max(amounts):
        return None
    counts = [f"{amount:,.0f} {'examples' if by_example else 'bytes'}" for amount in amounts]
    return Difference(TEXT, f"{a.id} was scored on {counts[0]}, {b.id} on {counts[1]}", remedy)


def _of_tokens(a: Logged, b: Logged, score: str) -> Difference | None:
    """Return why a score that is a mean over tokens is one over other tokens; None where it is not."""
    if a.objective.get("name") in LABELLED or a.holder(score) is a.generated:
        return None
    if _other_tokens(a, b):
        reason = f"{a.id} and {b.id} have different tokenizers, so {score} is a mean over different tokens"
        bytes_known = all("bits_per_byte" in run.holder(score) for run in (a, b))
        remedy = "give --scores bits_per_byte" if bytes_known else "leave one out"
        return Difference(TOKENS, reason, remedy) if score in OF_TOKENS else None
    counts = [run.holder(score).get("scored") for run in (a, b)]
    if None in counts or counts[0] == counts[1]:
        return None
    reason = f"{score} is a mean over {counts[0]:,} tokens of {a.id}, but over {counts[1]:,} of {b.id}"
    remedy = "evaluate runs with the same data.cross_documents and data.length, or leave one out"
    return Difference(tuple(f"data.{name}" for name in CUT_BY), reason, remedy)


def _other_tokens(a: Logged, b: Logged) -> bool:
    return a.tokenizer != b.tokenizer and None not in (a.tokenizer, b.tokenizer)


def fingerprint(run: Logged, score: str) -> str | None:
    """Return the fingerprint of the data that a score is of, as `evaluate` recorded it, or the run."""
    return run.holder(score).get("fingerprint") or (run.facts.get("fingerprints") or {}).get(run.split)


def place(run: Logged) -> str:
    """Return the last part of the path of each source of `run`."""
    return " + ".join(pathlib.PurePath(str(source.get("path"))).name for source in _sources(run)) or "unnamed data"


def _sources(run: Logged) -> list[dict[str, Any]]:
    return (run.resolved.get("data") or {}).get("sources") or []


def _text(run: Logged) -> Any:
    cleaning = {k: v for k, v in ((run.resolved.get("data") or {}).get("cleaning") or {}).items() if "overlap" not in k}
    read = [{k: v for k, v in source.items() if k not in TRAINING_ONLY} for source in _sources(run)]
    return place(run), read, cleaning


def _examples(run: Logged, score: str) -> int | None:
    """Return how many examples a score is of (with --limit fewer than there are), None where they are not recorded."""
    held = run.holder(score)
    return next((held[name] for name in ("examples", "documents", "rows") if name in held), None)


def _bytes(run: Logged) -> float | None:
    """Return how many bytes of running text were scored, None where they are not recorded."""
    held = run.evaluated
    if not (held.get("bits_per_byte") and held.get("loss") and held.get("scored")):
        return None
    return held["loss"] * held["scored"] / math.log(2) / held["bits_per_byte"]
