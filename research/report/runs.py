"""A run as its folder tells it: configuration, costs, evaluations, and what `evaluate` kept of a split."""

from __future__ import annotations

import collections
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from research.report import fields, logs
from research.types import UserError

LOWER = (  # best where lowest; every other score is best where highest
    "loss", "perplexity", "bits_per_byte", "mean_squared_error", "mean_absolute_error", "ece", "wer", "cer", "ter",
)  # fmt: skip
NO_SCORES = ("step", "scored", "examples", "seconds", "elapsed", "tokens", "seed", "unigram_loss", "majority", "limit")


class Logged:
    """One run's folder, read; nothing here changes it or computes a score anew.

    Args:
        folder: With run.json and metrics.jsonl.
        split: Whose scores are read from scores/<split>.json and scores/<split>.generated.json, where they are.

    Raises:
        UserError: `folder` is no run, or a file in it is damaged.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        if not (folder / logs.RUN).is_file():
            raise UserError(_no_run(folder))
        self.folder, self.split, self.id = folder, split, folder.resolve().name
        self.facts = logs.read_run(folder)
        self.rows = logs.read(folder) if (folder / logs.ROWS).exists() else []
        self.evaluated = _scores(folder / "scores" / f"{split}.json")
        self.generated = _scores(folder / "scores" / f"{split}.generated.json")

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration with nothing left open, as JSON values."""
        return self.facts.get("resolved") or self.facts["configuration"]

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """{dotted path: value} of the configuration."""
        return fields.leaves(self.resolved)

    @functools.cached_property
    def hash(self) -> str:
        """xxh3 of the resolved configuration as canonical JSON."""
        return digest(self.resolved)

    @property
    def seed(self) -> Any:
        """The seed, by which runs of one cell differ."""
        return self.resolved.get("seed")

    @property
    def objective(self) -> dict[str, Any]:
        """The objective, as JSON values."""
        return self.resolved.get("objective") or {}

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer's fingerprint."""
        return (self.facts.get("fingerprints") or {}).get("tokenizer")

    @property
    def end(self) -> dict[str, Any] | None:
        """The row that a finished run ends with."""
        return self.rows[-1] if self.rows and self.rows[-1].get("kind") == "end" else None

    @property
    def unfinished(self) -> str:
        """Why there is no result yet, or an empty string: 'unfinished at step 800 of 2,000'."""
        if self.end:
            return ""
        step = max((row.get("step", 0) for row in self.rows), default=0)
        steps = self.resolved.get("steps")
        return f"unfinished at step {step:,}" + (f" of {steps:,}" if steps else "")

    @property
    def dirty(self) -> bool:
        """Whether any part of the run was computed from a working tree with changes that no commit holds."""
        return any((start.get("git") or {}).get("dirty") for start in [self.facts, *self.facts.get("resumed", [])])

    @property
    def commits(self) -> list[str]:
        """The commits that the run was computed from, in order."""
        starts = [self.facts, *self.facts.get("resumed", [])]
        return list(dict.fromkeys(str(start["git"]["commit"]) for start in starts if start.get("git")))

    def cost(self, name: str) -> float | None:
        """Return `parameters`, `tokens` read, training `flops` or `seconds`; None where they are not recorded."""
        end = self.end or {}
        if name == "parameters":
            return self.facts.get("parameters")
        if name == "flops":
            each, steps = self.facts.get("flops_per_step"), end.get("step")
            return each * steps if each and steps else None
        return end.get({"tokens": "tokens", "seconds": "elapsed"}[name])

    def holder(self, score: str) -> dict[str, Any]:
        """Return the scores of the split that have `score`: of targets as they are, else of texts that were made."""
        return next((held for held in (self.evaluated, self.generated) if is_number(held.get(score))), {})

    @property
    def scores(self) -> list[str]:
        """The names of what the split was scored on."""
        held = {**self.evaluated, **self.generated}
        return [name for name, value in held.items() if is_number(value) and name not in NO_SCORES]

    def evaluations(self, score: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of metrics.jsonl that have `score` of the validation split, in order."""
        return (row for row in self.rows if row.get("kind") == "evaluation" and is_number(row.get(score)))


def digest(values: Any) -> str:
    """Return the xxh3 of JSON values written canonically, 16 hexadecimal digits."""
    import xxhash

    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_64_hexdigest(text.encode())


def is_number(value: Any) -> bool:
    """Return whether `value` is a number, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def load(folders: Sequence[pathlib.Path], split: str) -> list[Logged]:
    """Return the runs of `folders`, each with an `id` of its own: the folder's name, or its path where names meet.

    Raises:
        UserError: A folder is no run, is given twice, or a file in it is damaged.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{folder} is given twice: leave one out")
    runs = [Logged(folder, split) for folder in folders]
    taken = collections.Counter(run.id for run in runs)
    for run in runs:
        if taken[run.id] > 1:
            run.id = str(run.folder)
    return runs


def _no_run(folder: pathlib.Path) -> str:
    if not folder.is_dir():
        return f"no run in {folder}: {'it is no folder' if folder.exists() else 'there is no such folder'}"
    within = sorted(path.parent for path in folder.glob(f"*/{logs.RUN}"))
    more = f"it holds {len(within)} runs: give {folder}/*" if within else "give the folder that train wrote (--out)"
    return f"no run in {folder}: there is no {logs.RUN}; {more}"


def _scores(path: pathlib.Path) -> dict[str, Any]:
    """Return what `evaluate` kept in `path`, empty where it was not run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: remove it and evaluate the run again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: remove it and evaluate the run again")
    return values
