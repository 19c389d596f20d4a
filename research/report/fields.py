"""Fields of configurations: found by a whole or a short name, compared, and shown in a table."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from research.types import UserError, did_you_mean

if TYPE_CHECKING:
    from research.report.runs import Logged

KEEPING = (  # what is logged, saved and mirrored, and how the work is split: not what is learned
    "log_every", "evaluate_every", "evaluate_rows", "save_every", "keep", "tensorboard", "mesh.",
    "compute.remat", "compute.attention",
)  # fmt: skip
ABSENT = "–"


def leaves(values: Any, path: str = "") -> dict[str, Any]:
    """Return {dotted path: value} of nested JSON values; a list has paths only where it holds objects."""
    inner = values.items() if isinstance(values, dict) else ()
    if isinstance(values, list) and values and isinstance(values[0], dict):
        inner = enumerate(values)
    if not inner:
        return {path: values}
    return {k: v for name, value in inner for k, v in leaves(value, f"{path}.{name}" if path else str(name)).items()}


def find(name: str, runs: Iterable[Logged]) -> str:
    """Return the whole path of the field that `name` means: itself, or the only one that ends in it.

    Raises:
        UserError: No run has it (the nearest is suggested), or the short name means several.
    """
    known = list(dict.fromkeys(path for run in runs for path in run.fields))
    name = name.replace("-", "_")
    if name in known:
        return name
    ends = [path for path in known if path.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"field {name} could be {' or '.join(ends)}: write one of them whole")
    within = [path for path in known if path.startswith(f"{name}.")]
    hint = f": it has parts, such as {within[0]}" if within else did_you_mean(name, known)
    raise UserError(f"unknown field {name}{hint}")


def differing(runs: Sequence[Logged]) -> list[str]:
    """Return the fields that are not the same in all `runs`, `name` first, without seed and bookkeeping."""
    known = dict.fromkeys(path for run in runs for path in run.fields)
    differ = [path for path in known if len({repr(run.fields.get(path)) for run in runs}) > 1]
    differ = [path for path in differ if path != "seed" and not path.startswith(KEEPING)]
    return sorted(differ, key=lambda path: path != "name")


def telling(runs: Sequence[Logged]) -> list[str]:
    """Return fields that tell `runs` apart as well as all that differ do, each telling more than those before it.

    So runs of several experiments are told by `name` alone, and those of a sweep by what was swept. What a run was not
    given but found, the columns and labels of its data or the tokenizer of what it starts from, comes last: it follows.
    """
    differ = sorted(differing(runs), key=lambda path: any(run.given.get(path) != run.fields.get(path) for run in runs))
    full = len({_key(run, differ) for run in runs})
    chosen: list[str] = []
    apart = 1
    for path in differ:
        if apart == full:
            break
        if (more := len({_key(run, [*chosen, path]) for run in runs})) > apart:
            chosen, apart = [*chosen, path], more
    return chosen or ["name"]


def _key(run: Logged, paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(run.fields.get(path)) for path in paths)


def heads(paths: Sequence[str]) -> list[str]:
    """Return what fields are called in a table: their last word, or all of them where that is another's too."""
    short = [_head(path) for path in paths]
    return [head if short.count(head) == 1 else path for head, path in zip(short, paths, strict=True)]


def _head(path: str) -> str:
    """Return 'learning rate' of optimizer.learning_rate; a name or path is called by the group that it is of."""
    words = [word for word in path.split(".") if not word.isdigit()]
    if len(words) == 1:
        return "model" if path == "name" else words[0].replace("_", " ")
    word = words[-2] if words[-1] in ("name", "path") else words[-1]
    return {"sources": "data", "arch": "model"}.get(word, word).replace("_", " ")


def shown(value: Any, others: Iterable[Any] = ()) -> str:
    """Return `value` as a table shows it; a path is its last part, unless another of `others` ends in the same."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    ends = {str(other) for other in others if pathlib.PurePath(str(other)).name == pathlib.PurePath(str(value)).name}
    return str(value) if len(ends) > 1 else pathlib.PurePath(str(value)).name
