"""`interpolate RUN RUN ... --out DIR`: mix causal models, with weights fitted on validation, into one row of a report."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from research.commands.arguments import CHECKPOINTS, Parser, check_writable, checkpoint
from research.commands.table import show
from research.report import logs, runs
from research.report.runs import Logged
from research.types import Split, UserError

if TYPE_CHECKING:
    from research.train.interpolate import Interpolated

EXAMPLES = """examples:
  python -m research interpolate runs/kn5 runs/lstm --out runs/kn5-lstm
  python -m research interpolate runs/kn5-cache runs/rnnlm-* --out runs/all --checkpoint latest --json

p(token) = w1 p1(token) + w2 p2(token) + ...: the weights are those under which the validation split is likeliest, found
by EM. Runs are of causal models (n-gram, feed-forward, recurrent, transformer) with one tokenizer, on one text.

--out takes what `report` reads: run.json (parts and weights), metrics.jsonl, scores/validation.json, scores/SPLIT.json."""


def main(arguments: list[str]) -> int:
    """Print the weights and perplexities as a table or, with --json, as one JSON line, and write the mixture's folder."""
    parser = Parser("interpolate", "Mix causal models by weights fitted on validation.", epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a finished run; at least two")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="new folder, or an empty one")
    parser.add_argument("--split", choices=get_args(Split), default="test", help="what is scored (default: test)")
    parser.add_argument("--checkpoint", default="best", help=f"of every run: {CHECKPOINTS}")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse(arguments)
    checkpoint(options.checkpoint)
    parts = runs.load(options.runs, options.split)
    check(parts)

    from research.interop.export import check_free, whole_folder

    check_free(options.out)
    check_writable(options.out.absolute().parent)

    from research.train.interpolate import interpolate  # jax

    found = interpolate([part.folder for part in parts], options.checkpoint, options.split)
    with whole_folder(options.out) as folder:
        write(folder, parts, options.checkpoint, found)
    if options.json:
        from research.train.metrics import plain

        print(json.dumps(plain(told(parts, found))))
    else:
        splits = tuple(found.scores)
        show("", ("model", "weight", *(f"{split} perplexity" for split in splits)), rows(parts, found))
        print(f"{len(parts)} runs -> {options.out}")
    return 0


def check(parts: Sequence[Logged]) -> None:
    """Refuse, before anything is computed, what cannot be mixed.

    Raises:
        UserError: There is one run; or one of them is a mixture, unfinished, or not of a model of the next token.
    """
    if len(parts) < 2:
        raise UserError(f"{parts[0].folder} alone is no mixture: give at least two runs")
    for part in parts:
        logs.read_trained(part.folder)
        if (name := part.objective.get("name")) != "causal":
            raise UserError(
                f"{part.folder} has the objective {name}, which is no likelihood of the next token: only causal models mix"
            )
        if part.unfinished:
            raise UserError(f"{part.folder} is {part.unfinished}: train it to its end first")


def write(folder: pathlib.Path, parts: Sequence[Logged], named: str, found: Interpolated) -> None:
    """Write into `folder` what `report` reads of a run: its facts, its evaluation, and its scores of each split."""
    from research.commands.evaluate import write_scores
    from research.train import interpolate, metrics

    metrics.describe(folder, interpolate.configuration(parts, named), **interpolate.described(parts, named, found))
    taken = {"step": 0, **interpolate.cost(parts)}
    with metrics.Metrics(folder) as log:
        split = interpolate.FITTED
        log.write({"kind": "evaluation", **taken, "split": split, **found.scores[split]})
        log.write({"kind": "end", **taken})
    for split, scores in found.scores.items():
        more = {"fingerprint": found.fingerprints[split], "units": found.units[split]}
        write_scores(folder, split, named, scores, more)


def rows(parts: Sequence[Logged], found: Interpolated) -> list[tuple[str, ...]]:
    """Return a row for each part, and the last one of the mixture: weight, and perplexity on each split."""
    table = [
        (part.id, f"{weight:.4f}", *(f"{scores[at]['perplexity']:,.2f}" for scores in found.parts.values()))
        for at, (part, weight) in enumerate(zip(parts, found.weights, strict=True))
    ]
    return [*table, ("mixture", "", *(f"{scores['perplexity']:,.2f}" for scores in found.scores.values()))]


def told(parts: Sequence[Logged], found: Interpolated) -> dict:
    """Return the same as JSON values, with all scores."""
    return {
        "parts": [
            {"run": str(part.folder), "weight": float(weight), **{split: of[at] for split, of in found.parts.items()}}
            for at, (part, weight) in enumerate(zip(parts, found.weights, strict=True))
        ],
        **found.scores,
    }
