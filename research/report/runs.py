"""A run as its folder tells it: configuration, costs, evaluations, and what `evaluate` kept of a split."""

from __future__ import annotations

import collections
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from research.report import fields, logs
from research.report.logs import is_number
from research.types import UserError

LOWER = (  # best where lowest; every other score is best where highest
    "loss", "perplexity", "bits_per_byte", "mean_squared_error", "mean_absolute_error", "ece", "wer", "cer", "ter",
)  # fmt: skip
OF_TRAINING = ("optimizer.", "schedule.")
NO_SCORES = (
    "step", "rows", "scored", "examples", "documents", "words", "support", "seconds", "elapsed", "tokens", "seed",
    "unigram_loss", "majority", "limit",
)  # fmt: skip


class Logged:
    """One run's folder, read; nothing here changes it or computes a score anew.

    Args:
        folder: With run.json and metrics.jsonl.
        split: Whose scores are read from scores/<split>.json and scores/<split>.generated.json, where they are.

    Raises:
        UserError: `folder` is no run, or a file in it is damaged (names it, and the line where there are several).
    """

    def __init__(self, folder: pathlib.Path, split: str):
        if not (folder / logs.RUN).is_file():
            raise UserError(_no_run(folder))
        self.folder, self.split, self.id = folder, split, folder.resolve().name
        self.facts = logs.read_run(folder)
        self.rows = logs.read(folder) if (folder / logs.ROWS).exists() else []
        self.evaluated = _scores(folder / "scores" / f"{split}.json", split)
        self.generated = _scores(folder / "scores" / f"{split}.generated.json", split)

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration with nothing left open, as JSON values."""
        return self.facts.get("resolved") or self.facts["configuration"]

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """{dotted path: value} of the configuration, without what training would have used of a model that had none."""
        found, last = fields.leaves(self.resolved), (self.end or {}).get("step")
        return {path: value for path, value in found.items() if last != 0 or not path.startswith(OF_TRAINING)}

    @functools.cached_property
    def given(self) -> dict[str, Any]:
        """{dotted path: value} of the configuration as it was given, with what was left open."""
        return fields.leaves(self.facts["configuration"])

    @functools.cached_property
    def hash(self) -> str:
        """xxh3 of the resolved configuration as canonical JSON."""
        return digest(self.resolved)

    @property
    def seed(self) -> int | str:
        """The seed, by which runs of one cell differ."""
        seed = self.resolved.get("seed")
        return seed if isinstance(seed, int) else str(seed)

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

    @functools.cached_property
    def lineage(self) -> list[Logged]:
        """This run, those that it started from, mixes or has its tokenizer of, and theirs, as far as they are there."""
        found, waiting = {}, [self]
        while waiting:
            run = waiting.pop(0)
            if found.setdefault(run.folder.resolve(), run) is run:
                waiting += [Logged(pathlib.Path(path), self.split) for path in run.parents]
        return list(found.values())

    @functools.cached_property
    def parents(self) -> list[str]:
        """The folders of the runs that this one started from, mixes or has its tokenizer of, that are still there."""
        start, tokenizer = self.origins
        paths = [start, str(pathlib.Path(tokenizer).parent) if tokenizer else ""]
        paths += [str(part.get("folder") or "") for part in self.facts.get("parts") or []]
        return [path for path in dict.fromkeys(paths) if path and (pathlib.Path(path) / logs.RUN).is_file()]

    @property
    def origins(self) -> tuple[str, str]:
        """The paths of what the run started from and of its tokenizer, empty where they were made anew."""
        data = self.resolved.get("data") or {}
        return tuple(str((part or {}).get("path") or "") for part in (self.resolved.get("init"), data.get("tokenizer")))

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The facts of every start of the run, in order: the first, and each time that it went on."""
        return [self.facts, *(self.facts.get("resumed") or [])]

    @property
    def dirty(self) -> bool:
        """Whether any part of the run, or of one that it came from, had changes in its tree that no commit holds."""
        return any((start.get("git") or {}).get("dirty") for run in self.lineage for start in run.starts)

    @property
    def unversioned(self) -> bool:
        """Whether any part of the run, or of one that it came from, is of code of which no commit is known."""
        return not all((start.get("git") or {}).get("commit") for run in self.lineage for start in run.starts)

    @property
    def commits(self) -> list[str]:
        """The commits that the run was computed from, in order."""
        known = ((start.get("git") or {}).get("commit") for start in self.starts)
        return list(dict.fromkeys(str(commit) for commit in known if commit))

    def remarks(self, score: str) -> list[str]:
        """Return what a reader of a score must know: it is of another checkpoint or other text than one expects."""
        held, end, told = self.holder(score), self.end or {}, []
        began = max((str(start.get("started") or "") for start in self.starts), default="")
        name, step, last = held.get("checkpoint"), held.get("step"), end.get("step")
        if held.get("evaluated") and held["evaluated"] < began or step is not None and last is not None and step > last:
            told.append(f"{self.id} was trained after it was scored: evaluate it again")
        elif name not in (None, "best") and last:  # counted models have one state and no steps
            at = "" if name == "latest" or step is None else f" (step {step:,})"
            told.append(f"of checkpoint {name}{at}, not of the best")
        if is_number(limit := held.get("limit")) and 0 < limit <= held.get("examples", limit):
            told.append(f"of {limit:,} examples alone (--limit), spread over the {self.split} split")
        recorded = (self.facts.get("fingerprints") or {}).get(self.split)
        if recorded and held.get("fingerprint") and recorded != held["fingerprint"]:
            told.append(f"the {self.split} text that {self.id} was scored on is not what it recorded in training")
        return told

    @property
    def updated(self) -> bool:
        """Whether updates made the model, or shall: one that is finished without any was counted or mixed."""
        return not self.end or bool(self.end.get("step"))

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
        """Yield the rows of metrics.jsonl that have `score` of the validation split and their step, in order."""
        found = (row for row in self.rows if row.get("kind") == "evaluation" and "step" in row)
        return (row for row in found if is_number(row.get(score)))


def digest(values: Any) -> str:
    """Return the xxh3 of JSON values written canonically, 16 hexadecimal digits."""
    import xxhash

    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_64_hexdigest(text.encode())


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


def _scores(path: pathlib.Path, split: str) -> dict[str, Any]:
    """Return what `evaluate` kept in `path`, empty where it was not run."""
    again = "remove it and evaluate the run again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON{logs.line_of(error)}: {again}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: {again}")
    if values.get("split", split) != split:
        raise UserError(f"{path} has scores of the split {values['split']}: {again}")
    for name in ("checkpoint", "evaluated", "fingerprint"):
        if not isinstance(values.get(name) or "", str):
            raise UserError(f"{path}: {name} is not a text: {again}")
    for name in ("step", "scored", "examples"):
        if not is_number(values.get(name), unknown=True):
            raise UserError(f"{path}: {name} is not a number: {again}")
    return values
