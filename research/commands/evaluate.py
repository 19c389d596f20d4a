"""`evaluate RUN`: score a checkpoint on a whole split, or on any other text, with fixed corruption."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from research.commands import overrides
from research.commands.arguments import CHECKPOINTS, Parser, check_writable, checkpoint, prefixed
from research.commands.table import show
from research.generate.settings import Decoding, check
from research.train.launchers import Processes
from research.types import UserError

if TYPE_CHECKING:
    from research.train.judged import Judged

EXAMPLES = """examples:
  python -m research evaluate runs/x
  python -m research evaluate runs/x --checkpoint latest --split test --json
  python -m research evaluate runs/x --source other.jsonl --source.column body
  python -m research evaluate runs/sst2 --split test --out scores/sst2
  python -m research evaluate runs/multi30k --split test --generate --decoding.method beam --decoding.beams 5

--out writes scores.json, predictions.jsonl (every example with what is predicted), errors.jsonl (the worst of them)
and, where there is one label of several, confusion and reliability as .png and .pdf.

Every field of a data source may follow as --source.FIELD VALUE; its text is cleaned and packed as the run's own. Runs that
learned to write are scored on what they write with --generate, whose settings follow as --decoding.FIELD VALUE. Several
processes share the work as those of train do: --processes.address, --processes.count, --processes.index."""

MEASURES = ("precision", "recall", "f1", "support")
LABELS = {
    "loss": "loss (nats a scored token)",
    "perplexity": "perplexity",
    "accuracy": "accuracy on scored tokens",
    "bits_per_byte": "bits per byte",
    "scored": "tokens scored",
    "unigram_loss": "loss of the training unigram",
}
OF_LABELS = {  # what of these is another thing where labels are told, not tokens
    "loss": "loss (nats a label)",
    "accuracy": "accuracy",
    "scored": "labels scored",
    "unigram_loss": "loss of the labels' shares in training",
}
HIDDEN = ("confusion", "labels", "types")  # shown apart, or in the files of --out


def main(arguments: list[str]) -> int:
    """Print the scores of a run's checkpoint as a table or, with --json, as one JSON line."""
    parser = Parser("evaluate", "Score a checkpoint of a run.", epilog=EXAMPLES)
    parser.add_argument("run", type=pathlib.Path, help="folder of a run")
    parser.add_argument("--checkpoint", default="best", help=CHECKPOINTS)
    parser.add_argument("--split", choices=("train", "validation", "test"), help="validation if not given; of a file, all")
    parser.add_argument("--source", help="other text: a file, a folder, or a hub id; its --split is scored")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    parser.add_argument("--out", type=pathlib.Path, help="of a task: new folder of scores, predictions, errors, figures")
    parser.add_argument("--generate", action="store_true", help="score the texts that the model writes")
    parser.add_argument("--limit", type=int, default=0, help="of --generate: examples, spread over all; 0: all")
    parser.add_argument("--tokenised", action="store_true", help="of --generate: texts are tokenised, so BLEU of these too")
    of_source, own = prefixed("--source.", arguments)
    of_decoding, own = prefixed("--decoding.", own)
    of_processes, own = prefixed("--processes.", own)
    options = parser.parse(own)
    checkpoint(options.checkpoint)
    if of_decoding and not options.generate:
        raise UserError("--decoding.FIELD says how texts are made: give --generate too")
    if (options.limit or options.tokenised) and not options.generate:
        raise UserError("--limit and --tokenised are for texts that are made: give --generate too")
    if options.limit < 0:
        raise UserError(f"--limit is {options.limit}: it must be at least 1, or 0 for all")
    processes = overrides.parse_part("processes", Processes(), of_processes)
    decoding = check(overrides.parse_part("decoding", Decoding(), of_decoding))
    if of_source and not options.source:
        raise UserError("--source.FIELD says more of --source: give --source too")
    if not (options.run / "run.json").is_file():
        raise UserError(f"no run in {options.run}: there is no run.json; give the folder that train wrote (--out)")
    if options.out or options.generate:
        check_task(options.run, options.generate)
    source, split, whole = None, options.split or "validation", False
    if options.source:
        source = source_of(options.source, of_source)
        if options.split is None and pathlib.Path(options.source).is_file():  # it has no splits: all of it
            source, split = dataclasses.replace(source, holdout=0.0, holdout_test=0.0), "train"
            whole = source.share == 1 and not source.limit

    from research.train.processes import joined

    with joined(processes):
        score(options, decoding, split, source, whole)
    return 0


def score(options: argparse.Namespace, decoding: Decoding, split: str, source: Any, whole: bool) -> None:
    """Evaluate as `options` say, and print and write what is found; of several processes, process 0 does the latter."""
    import jax

    from research.interop.export import check_free
    from research.train.restore import evaluated

    if options.generate and jax.process_count() > 1:
        raise UserError("--generate: texts are made in one process: start it alone")
    if options.out:
        check_free(options.out)
        check_writable(options.out.absolute().parent)
    called = "all" if whole else split
    found = evaluated(options.run, options.checkpoint, split, source, partial(tell, called))
    scores = dict(found.scores) | ({"split": called} if whole else {})
    if jax.process_index() > 0:
        return
    if not options.source:
        keep(options.run, split, options.checkpoint, scores, {"fingerprint": found.fingerprint, "units": found.units})
    if options.out or options.generate:
        from research.train.judged import judged

        told = judged(found, decoding, options.limit, options.tokenised)
        scores |= told.scores
        if options.generate and not options.source:
            more = {"fingerprint": found.fingerprint, "decoding": dataclasses.asdict(decoding), "limit": options.limit}
            keep(options.run, f"{split}.generated", options.checkpoint, told.scores | {"step": found.scores["step"]}, more)
        if options.out:
            save(options.out, scores, told)
    if options.json:
        from research.train.metrics import plain

        print(json.dumps(plain(scores)))
    else:
        text = f" on {options.source}" if options.source else f" on its {split} split"
        show(f"{options.run}, checkpoint {options.checkpoint}{text}", ("", ""), rows(scores))
        for name in ("labels", "types"):
            if name in scores:
                show(name, (name[:-1], *MEASURES), parts(scores[name]))


def keep(run: pathlib.Path, name: str, checkpoint: str, scores: dict[str, Any], more: dict[str, Any]) -> None:
    """Write what was found of a run's own split into its folder, as scores/NAME.json, for `report`."""
    try:
        write_scores(run, name, checkpoint, scores, more)
    except OSError as error:  # of somebody else's run: the scores are shown all the same
        print(f"warning: {run}/scores is not kept for reports: {error.strerror}", file=sys.stderr)


def write_scores(run: pathlib.Path, name: str, checkpoint: str, scores: dict[str, Any], more: dict[str, Any]) -> None:
    """As `keep`, but an OSError where that cannot be written."""
    from research.train.metrics import plain, write_atomically

    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    values = {"split": name.partition(".")[0], "checkpoint": checkpoint, "evaluated": when, **scores, **more}
    values.pop("run", None)
    (run / "scores").mkdir(exist_ok=True)
    write_atomically(run / "scores" / f"{name}.json", json.dumps(plain(values)) + "\n")


def check_task(run: pathlib.Path, generate: bool) -> None:
    """Refuse, before anything is computed, a run that has no predictions to write or makes no text.

    Raises:
        UserError: The run is of running text; or `generate` is asked for, or not asked for, against what its task is.
    """
    from research.config import from_json, is_task
    from research.report.logs import read_trained

    held = from_json(read_trained(run)["resolved"])
    if not is_task(held):
        name = type(held.objective).__name__
        raise UserError(
            f"--out and --generate are for runs of a task: {run} was trained on running text ({name}), leave them out"
        )
    if generate and held.arch.head != "vocabulary":
        raise UserError(f"--generate: {run} tells labels apart and makes no text: leave it out")
    if not generate and held.arch.head == "vocabulary":
        raise UserError(f"--out: {run} makes texts, so what it predicts has to be made: give --generate too")


def tell(split: str, report: dict[str, Any]) -> None:
    """Print, apart from the scores, what there is to know of the records that are scored."""
    from research.tasks.summary import lines

    print(*lines(split, report), sep="\n", file=sys.stderr)


def save(folder: pathlib.Path, scores: dict[str, Any], found: Judged) -> None:
    """Write scores.json, predictions.jsonl, errors.jsonl and, where there is one label of several, the figures."""
    from research.report.figures import confusion, reliability
    from research.train.metrics import plain, write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scores.json", json.dumps(plain(scores), indent=1) + "\n")
    for name, examples in (("predictions", found.told), ("errors", found.worst)):
        lines = (json.dumps(plain(each), ensure_ascii=False) + "\n" for each in examples)
        write_atomically(folder / f"{name}.jsonl", "".join(lines))
    if found.probabilities is not None:
        for suffix in ("png", "pdf"):
            confusion(scores["confusion"], list(scores["labels"]), folder / f"confusion.{suffix}")
            reliability(found.probabilities, found.gold, folder / f"reliability.{suffix}")


def parts(scores: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row for each label or type of entity."""
    return [(name, *(_shown(each[measure]) for measure in MEASURES)) for name, each in scores.items()]


def source_of(path: str, more: list[str]) -> Any:
    """Return the data source at `path` with the fields that `more` (--source.FIELD VALUE ...) overrides."""
    from research.data.sources import Source

    return overrides.parse_part("source", Source(path=path), more)


def rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the scores as (label, value) in a fixed order; what is not defined is left out."""
    words = LABELS if "perplexity" in scores else LABELS | OF_LABELS
    order = [*(name for name in words if name in scores), *(name for name in scores if name not in words)]
    order = [name for name in order if name not in HIDDEN and not name.endswith("_interval") and scores[name] is not None]
    return [(words.get(name, name), _shown(scores[name]) + _around(scores.get(f"{name}_interval"))) for name in order]


def _around(interval: list[float] | None) -> str:
    return f" [{interval[0]:,.4f}, {interval[1]:,.4f}]" if interval else ""


def _shown(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
