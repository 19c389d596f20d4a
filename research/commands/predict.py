"""`predict MODEL FILE --out PREDICTIONS`: what a fine-tuned model says of every record of a file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from research.commands import overrides
from research.commands.arguments import check_writable, checkpoint, take
from research.generate.settings import Decoding, check
from research.types import UserError

USAGE = """usage: python -m research predict MODEL FILE --out PREDICTIONS.jsonl [--FIELD VALUE ...]

MODEL         a run of a task, its exported folder, another folder in Hugging Face's layout with a head for labels, or
              a hub id
FILE          .jsonl, .csv, .parquet (gzipped or not) with the columns that the model was trained on (of a classifier
              from elsewhere: text, or a pair such as premise and hypothesis), or .txt, a text a line
--out         a JSON line for each record, in order: its line and what the model says, or what is wrong with it
--checkpoint  of a run: best (if not given), latest, a step, or average:N
--batch-size  rows, or texts being made, at the same time (16)

A line of PREDICTIONS has the "line" of the record (or row, from 1) and, as the model was trained for,

classification  predicted: a label, a list of labels, or a number; probabilities: of each label
tagging         words; tags; entities, where tags mark any: type, text, start and end in characters, first and last word
texts           predicted; score, in nats; cut: true, where the source had to be; texts, the best first, where several
                are asked for
or              error: what is wrong with the record

Stopped, the same command goes on where it stopped: until it is done, PREDICTIONS.jsonl.partial holds what there is. A
record that cannot be read is told with its line, and the others go on; the exit status is then 1. Where the model makes
texts, the fields of decoding:
"""

FORMAT = 1


def main(arguments: list[str]) -> int:
    """Write the predictions; return 0, or 1 if a record was wrong."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(USAGE)
        overrides.show_help(Decoding(), "predict MODEL FILE", "")
        return 0 if arguments else 2
    if len(arguments) < 2 or any(word.startswith("-") for word in arguments[:2]):
        raise UserError("predict needs a model and a file first: python -m research predict MODEL FILE --out FILE")
    (model, file), rest = arguments[:2], arguments[2:]
    out, rest = take(rest, "--out")
    named, rest = take(rest, "--checkpoint")
    width, rest = take(rest, "--batch-size")
    if not out:
        raise UserError("--out is missing: name the file that predictions go to")
    if width and not (width.isdecimal() and int(width)):
        raise UserError(f"--batch-size is {width}: it must be a whole number, at least 1")
    decoding = check(overrides.parse(Decoding(), rest))
    source, target = pathlib.Path(file), pathlib.Path(out)
    if source.is_dir():
        raise UserError(f"{source} is a folder: give one file")
    if not source.is_file():
        raise UserError(f"{source}: no such file: check the path")
    _check_free(target)
    check_writable(target.absolute().parent)

    from research.data.records import rows_of_file
    from research.train.predict import check_columns, chunks, open_predictor, settled
    from research.train.progress import Progress

    predictor = open_predictor(model, named and checkpoint(named), int(width or 16))
    job = {
        "format": FORMAT,
        "model": model,
        "checkpoint": named or "best",
        "step": predictor.step,
        "parameters": [_stamp(path) for path in predictor.files],
        **_stamp(source),
        "decoding": repr(decoding),
    }
    partial, note = target.with_name(target.name + ".partial"), target.with_name(target.name + ".partial.json")
    predictor = settled(predictor, rows_of_file(source))  # by the first record, also of those that are done
    check_columns(predictor, rows_of_file(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _held(partial, note, target):
        done, wrong = _resume(partial, note, job)
        rows = itertools.islice(rows_of_file(source), done, None)
        if done:
            print(f"going on after {done:,} records", file=sys.stderr)
        try:
            with open(partial, "ab") as output, Progress(None, "record", f"predicting {source}") as progress:
                progress.update(done)
                for answers in chunks(predictor, rows, decoding):
                    for answer in answers:
                        output.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                        if "error" in answer:
                            wrong += 1
                            progress.note(f"warning: {answer['error']}")
                    done += len(answers)
                    progress.update(done, wrong=wrong)
                output.flush()
                os.fsync(output.fileno())
        except UserError:
            if not done:  # refused: there is nothing to go on with
                partial.unlink()
                note.unlink()
            raise
        _check_free(target)
        partial.rename(target)
        note.unlink(missing_ok=True)
    if not done:
        print(f"warning: {source} has no record: {target} is empty", file=sys.stderr)
    by = "" if predictor.step is None else f" by step {predictor.step:,}"
    print(f"{done:,} records{by} -> {target}" + (f", {wrong:,} of them wrong" if wrong else ""))
    return 1 if wrong else 0


def _check_free(target: pathlib.Path) -> None:
    """Refuse to write over a file."""
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or choose another --out")


@contextlib.contextmanager
def _held(partial: pathlib.Path, note: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """Hold `partial`, made where it is not there, against others that would write it.

    Raises:
        UserError: Another predict is writing it, or has made `target` since this one looked.
    """
    from research.train.lock import alone

    if not partial.exists():
        note.unlink(missing_ok=True)  # of one that was removed
    partial.touch()
    with alone(partial, "another predict"):
        if target.exists() and not partial.stat().st_size:
            partial.unlink()
        _check_free(target)
        yield


def _stamp(path: pathlib.Path) -> dict[str, Any]:
    """Return what tells a file from another, or from itself after a change."""
    facts = path.stat()
    return {"file": str(path.absolute()), "size": facts.st_size, "changed": facts.st_mtime_ns}


def _resume(partial: pathlib.Path, note: pathlib.Path, job: dict[str, Any]) -> tuple[int, int]:
    """Return how many records are done already, and how many of them were wrong; a last line that was torn is cut off.

    Raises:
        UserError: What is there was made of something else, or is nothing of ours: remove it, or choose another name.
    """
    from research.train.metrics import write_atomically

    if not partial.stat().st_size and not note.exists():
        write_atomically(note, json.dumps(job) + "\n")
        return 0, 0
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"{partial} is there, and {note.name} does not say of what: remove it, or choose another --out")
    if before != job:
        changed = ", ".join(name for name in job if before.get(name) != job[name])
        raise UserError(f"{partial} was begun with another {changed}: remove it, or choose another --out")
    done = wrong = whole = 0
    with open(partial, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            done += 1
            wrong += b'"error": ' in line and "error" in json.loads(line)
        file.truncate(whole)
    return done, wrong
