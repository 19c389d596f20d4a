"""Runs mixed into one model with weights fitted on validation, and what such a mixture is recorded as."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from research.config import from_json
from research.data.batches import Rows
from research.models.interpolation import fitted, mixed
from research.report import fields, logs, runs
from research.report.runs import Logged
from research.train import units
from research.train.restore import evaluated, prepared_again
from research.types import Split, UserError

FITTED = "validation"  # the split that the weights are fitted on


class Scored(NamedTuple):
    """What M runs gave the tokens of a split."""

    scores: list[dict[str, Any]]  # of each run, as `evaluate` tells them
    log_probs: np.ndarray  # float64[M, N], nats, of the scored tokens
    weights: np.ndarray  # float32 of all tokens: which are scored
    rows: Rows
    fingerprint: str


class Interpolated(NamedTuple):
    """A mixture of M runs, and how good it and they are on each split."""

    weights: np.ndarray  # float64[M], sum to 1
    parts: dict[Split, list[dict[str, Any]]]
    scores: dict[Split, dict[str, Any]]
    units: dict[Split, dict[str, Any] | None]  # losses of documents, as `evaluate` keeps them
    fingerprints: dict[Split, str]


def interpolate(folders: Sequence[pathlib.Path], checkpoint: str, split: Split) -> Interpolated:
    """Return the mixture of the causal models of `folders`, its weights fitted on validation, scored there and on `split`.

    Raises:
        UserError: Two runs have other tokenizers, another text, or other tokens scored; or as `evaluated` and `fitted`.
    """
    splits = tuple(dict.fromkeys((FITTED, split)))
    check_same(folders, splits)
    found = {each: scored(folders, checkpoint, each) for each in splits}
    weights = fitted(found[FITTED].log_probs)
    losses = {each: _losses(of, weights) for each, of in found.items()}
    return Interpolated(
        weights,
        {each: of.scores for each, of in found.items()},
        {each: _scores(of, losses[each]) for each, of in found.items()},
        {each: units.by_document(losses[each], of.rows) for each, of in found.items()},
        {each: of.fingerprint for each, of in found.items()},
    )


def check_same(folders: Sequence[pathlib.Path], splits: Sequence[Split]) -> None:
    """Refuse, before any model is loaded, runs that do not tell the same tokens of the same text.

    Raises:
        UserError: Which two runs differ, and in what.
    """
    known: dict[str, tuple[str, pathlib.Path]] = {}
    for folder in folders:
        run = from_json(logs.read_trained(folder)["resolved"])
        for split in splits:
            prepared = prepared_again(run, folder, split, None)
            for what, mark in (("tokenizers", prepared.tokenizer_fingerprint), (f"{split} text", prepared.parts[split])):
                first, other = known.setdefault(what, (mark, folder))
                if mark != first:
                    raise UserError(
                        f"{other} and {folder} have different {what} (fingerprints {first[:8]} and {mark[:8]}): mix runs "
                        "of the same tokens"
                    )


def scored(folders: Sequence[pathlib.Path], checkpoint: str, split: Split) -> Scored:
    """Return what each run of `folders` gives the tokens of a split.

    Raises:
        UserError: Two runs score other tokens, as where one does not cross documents; or as `evaluated`.
    """
    scores, tokens = [], []
    for folder in folders:
        found = evaluated(folder, checkpoint, split)
        scores.append(found.scores)
        tokens.append(found.tokens)
        first, last = (each.weights for each in (tokens[0], tokens[-1]))
        if not np.array_equal(first, last):
            raise UserError(
                f"{folders[0]} and {folder} score different tokens of the {split} split ({np.sum(first > 0):,} and "
                f"{np.sum(last > 0):,}): mix runs of the same data.cross_documents"
            )
    log_probs = -np.stack([each.nll[first > 0] for each in tokens]).astype(np.float64)
    return Scored(scores, log_probs, first, found.prepared.rows(split, lookahead=1), found.fingerprint)


def _losses(found: Scored, weights: np.ndarray) -> units.Losses:
    """Return the loss of every token under the mixture."""
    nll = np.zeros(len(found.weights))
    nll[found.weights > 0] = -mixed(found.log_probs, weights)
    return units.Losses(nll, found.weights)


def _scores(found: Scored, losses: units.Losses) -> dict[str, Any]:
    """Return the mixture's scores; the baseline is that of the first run, whose training text need not be the others'."""
    baseline = {name: value for name, value in found.scores[0].items() if name == "unigram_loss"}
    return {"step": 0, **units.scores(losses, found.rows), **baseline}


# --- what run.json says of it -----------------------------------------------------------------------------------------


def configuration(parts: Sequence[Logged], checkpoint: str) -> dict[str, Any]:
    """Return what tells the mixture of `parts` from other runs in a report, as JSON: mixtures of the same
    configurations that differ by their seeds alone are one cell there.

    The objective, the text and its tokenizer are those of the first part: on what is scored all agree.
    """
    first = parts[0].resolved
    return {
        "name": " + ".join(part.resolved["name"] for part in parts),
        "arch": {"model": "mixture", "checkpoint": checkpoint, "parts": [_called(part) for part in parts]},
        "objective": first["objective"],
        "data": {name: first["data"][name] for name in ("sources", "cleaning", "tokenizer")},
        "seed": seed(parts),
    }


def _called(part: Logged) -> dict[str, str]:
    """Return the name of a part, and a hash of all of its configuration that reports tell runs apart by."""
    apart = {path: value for path, value in part.fields.items() if path != "seed" and not path.startswith(fields.KEEPING)}
    return {"name": part.resolved["name"], "configuration": runs.digest(apart)}


def seed(parts: Sequence[Logged]) -> int | str:
    """Return the seed that all parts have, or all of them ("1 + 2"); n-gram models, of which none is random, have no say."""
    drawn = [part for part in parts if part.fields.get("arch.model") != "n-gram"] or parts[:1]
    seeds = [part.seed for part in drawn]
    return seeds[0] if len(set(seeds)) == 1 else " + ".join(map(str, seeds))


def described(parts: Sequence[Logged], checkpoint: str, found: Interpolated) -> dict[str, Any]:
    """Return the facts of run.json beside the configuration: what the mixture is made of, and how large that is."""
    sizes = [part.facts.get("parameters") for part in parts]
    marks = [part.facts.get("fingerprints") or {} for part in parts]
    same = {name: mark for name, mark in marks[0].items() if all(other.get(name) == mark for other in marks)}
    return {
        "fingerprints": same | found.fingerprints,
        "parameters": None if None in sizes else sum(sizes),
        "flops_per_step": None,
        "parts": [
            {
                "run": part.id,
                "folder": str(part.folder),
                "configuration": part.hash,
                "checkpoint": checkpoint,
                "step": scores["step"],
                "weight": weight,
            }
            for part, scores, weight in zip(parts, found.parts[FITTED], found.weights, strict=True)
        ],
    }


def cost(parts: Sequence[Logged]) -> dict[str, Any]:
    """Return the tokens and seconds that all parts together took to train, where all recorded them."""
    return {
        name: sum(part.end[name] for part in parts)
        for name in ("tokens", "elapsed")
        if all(part.end.get(name) is not None for part in parts)
    }
