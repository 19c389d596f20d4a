"""`data build` and `data inspect`: make the data of an experiment ready, and show what became of the text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from typing import Any

from research.commands import overrides
from research.commands.arguments import check_writable, take
from research.commands.table import show
from research.types import UserError

USAGE = """usage: python -m research data build EXPERIMENT [--FIELD VALUE ...] [--splits train,validation]
       python -m research data inspect EXPERIMENT [--FIELD VALUE ...] [--splits train,validation] [--json FILE]

build    read, clean, tokenise and cache the text; training then starts at once
inspect  the same, and show the cleaning report, the counts, three rows and what the objective makes of one

Without an experiment the data are given by their fields alone: data inspect --data.sources.0.path FILE
python -m research train EXPERIMENT --help shows every field. --json FILE: where inspect writes all that it shows, and
more, as JSON; runs/NAME-data.json if not given."""

SAMPLES = 3  # rows shown
SEED = 0  # of the rows and of the corruption shown: the same every time


def main(arguments: list[str]) -> int:
    """Build or inspect the data that `arguments` describe; return 0."""
    if not arguments or arguments[0] in ("-h", "--help") or "--help" in arguments[1:]:
        print(USAGE)
        return 0 if arguments else 2
    action, rest = arguments[0], arguments[1:]
    if action not in ("build", "inspect"):
        raise UserError(f"no command data {action}: it is data build or data inspect")
    wanted, rest = take(rest, "--splits")
    file, rest = take(rest, "--json")
    if file and action == "build":
        raise UserError("--json belongs to data inspect")
    run, data = _configuration(rest)
    splits = tuple((wanted or "train,validation").split(","))
    for split in splits:
        if split not in ("train", "validation", "test"):
            raise UserError(f"--splits: '{split}' is not one of train, validation, test")
    if action == "inspect":
        file = file or f"runs/{run.name if run else 'text'}-data.json"
        check_writable(pathlib.Path(file).parent, "--json")

    from research.config import is_task
    from research.data.corpus import prepare
    from research.tasks.prepare import prepared_for
    from research.train.progress import documents_read

    with documents_read() as progress:
        prepared = prepared_for(run, splits, progress) if run else prepare(data, splits, progress)
    if run and is_task(run):
        run = dataclasses.replace(run, objective=prepared.objective)
        found = describe_task(prepared)
        _show_task(found, prepared)
    else:
        found = describe(prepared, run)
        if action == "inspect":
            _show_cleaning(found["splits"])
        _show_counts(found)
    if action == "inspect":
        found |= {"rows": sample_rows(prepared, run, splits[0])}
        _show_rows(found["rows"])
        if run:
            found["example"] = example(prepared, run, splits[0])
            _show_example(found["example"])
    if file:
        pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(file).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {file}")
    return 0


def _configuration(arguments: list[str]) -> tuple[Any, Any]:
    """Return (run, data); the run is None where the data are given by their fields alone."""
    if arguments and not arguments[0].startswith("-"):
        from research.config import check, load_experiment

        run = overrides.parse(load_experiment(arguments[0]), arguments[1:])
        check(run)
        if run.init.path:
            from research.train import origin  # jax

            run = origin.resolve(run)  # whose tokenizer and structure decide what rows are
        return run, run.data
    if not arguments:
        raise UserError("no experiment file and no --data fields given; see python -m research data --help")
    from research.config import check_data
    from research.data.corpus import Data

    data = overrides.parse_part("data", Data(), arguments)
    check_data(data)
    return None, data


def describe_task(prepared: Any) -> dict[str, Any]:
    """Return the columns and labels of a task and the report of every split, as JSON values."""
    splits = {split: report for split, (report,) in prepared.reports.items()}
    return {"objective": dataclasses.asdict(prepared.objective), **_facts(prepared), "splits": splits}


def _facts(prepared: Any) -> dict[str, Any]:
    return {
        "length": prepared.data.length,
        "tokenizer": prepared.data.tokenizer.path or f"{prepared.data.tokenizer.kind}, trained on this text",
        "vocabulary": prepared.vocabulary.size,
        "fingerprint": prepared.fingerprint,
        "tokenizer_fingerprint": prepared.tokenizer_fingerprint,
    }


def _show_task(found: dict[str, Any], prepared: Any) -> None:
    from research.tasks.summary import told

    columns = ("text", "pair", "label", "words", "tags", "source", "target", "references")
    named = ", ".join(f"{name} {found['objective'][name]!r}" for name in columns if found["objective"].get(name))
    print(f"columns: {named}")
    print(*told(prepared), sep="\n")
    print(f"tokenizer: {found['tokenizer']}, {found['vocabulary']:,} ids; fingerprint {found['fingerprint']}\n")


def describe(prepared: Any, run: Any) -> dict[str, Any]:
    """Return counts and cleaning reports of every split and source, as JSON values."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, corpora in prepared.corpora.items():
        counts = prepared.rows(split, run.objective.lookahead if run else 0).counts
        splits[split] = [
            {
                "source": source.path,
                "weight": source.weight,
                **{name: corpus.meta[name] for name in ("documents", "tokens", "bytes", "unknown", "empty")},
                "tokens_per_byte": corpus.meta["tokens"] / max(corpus.meta["bytes"], 1),
                "rows": int(rows),
                "cleaning": report,
            }
            for source, corpus, rows, report in zip(
                prepared.data.sources, corpora, counts, prepared.reports[split], strict=True
            )
        ]
    return {**_facts(prepared), "splits": splits}


def sample_rows(prepared: Any, run: Any, split: str) -> list[dict[str, Any]]:
    """Return the first rows of a shuffled epoch: their tokens as text, and how many documents they touch."""
    rows = prepared.rows(split, run.objective.lookahead if run else 0, batch_size=SAMPLES, seed=SEED, order="shuffled")
    record, places = rows.batch(0), rows.locate(0)
    samples = []
    for tokens, segments, place in list(zip(record["tokens"], record["segments"], places, strict=True))[: rows.count]:
        real = segments > 0
        samples.append(
            {
                "source": place.source,
                "row": place.row,
                "tokens": int(real.sum()),
                "segments": int(segments.max()),
                "text": prepared.tokenizer.decode(tokens[real].tolist()),
            }
        )
    return samples


def example(prepared: Any, run: Any, split: str) -> dict[str, Any]:
    """Return what the objective makes of the first sample row: every input and the scored targets, as tokens.

    Raises:
        UserError: The tokenizer lacks a token that the objective needs.
    """
    import jax
    import numpy as np

    from research.keys import key

    run.objective.check(prepared.data.length, prepared.vocabulary)
    rows = prepared.rows(split, run.objective.lookahead, seed=SEED, order="shuffled")
    record = {name: value[0] for name, value in rows.batch(0).items()}
    make = jax.jit(lambda key: run.objective(key, record, prepared.vocabulary))
    made = jax.device_get(make(key(SEED, "corruption", 0, 0)))

    def words(ids: Any) -> list[str]:
        return prepared.tokenizer.convert_ids_to_tokens([int(i) for i in ids])

    inputs = {}
    for name, value in made.inputs.items():
        inputs[name] = words(value) if name in ("tokens", "source") else np.asarray(value).astype(int).tolist()
    scored = np.asarray(made.weights) > 0
    from research.train.loop import padding

    return {
        "objective": type(run.objective).__name__,
        "padding": padding(run),
        "inputs": inputs,
        "targets": words(made.targets) if run.objective.head == "vocabulary" else np.asarray(made.targets).tolist(),
        "weights": np.asarray(made.weights).tolist(),
        "scored": int(scored.sum()),
    }


def _show_cleaning(splits: dict[str, list[dict[str, Any]]]) -> None:
    from research.data.cleaning import report_table

    for split, sources in splits.items():
        for each in sources:
            print(f"cleaning of {each['source']}, {split}")
            print(report_table(each["cleaning"]) + "\n")


def _show_counts(found: dict[str, Any]) -> None:
    columns = ("split", "source", "documents", "tokens", "bytes", "tokens per byte", "unknown", "rows")
    cells = []
    for split, sources in found["splits"].items():
        for each in sources:
            counts = [f"{each[name]:,}" for name in ("documents", "tokens", "bytes")]
            ratios = f"{each['tokens_per_byte']:.4f}", f"{each['unknown'] / max(each['tokens'], 1):.2%}"
            cells.append((split, each["source"], *counts, *ratios, f"{each['rows']:,}"))
    show(f"Rows of {found['length']} tokens", columns, cells)
    print(f"tokenizer: {found['tokenizer']}, {found['vocabulary']:,} ids; fingerprint {found['fingerprint']}\n")


def _show_rows(rows: list[dict[str, Any]]) -> None:
    for each in rows:
        documents = f"{each['segments']} segment{'s' if each['segments'] > 1 else ''}"
        print(f"row {each['row']} of source {each['source']}: {each['tokens']} tokens, {documents}")
        print(f"  {each['text']!r}\n")


def _show_example(made: dict[str, Any]) -> None:
    padded = f" and {made['padding']:.1%} padding" if made["padding"] else ""
    print(f"{made['objective']} makes of the first of them, with {made['scored']} scored tokens{padded}:")
    for name, value in made["inputs"].items():
        print(f"  {name}: {' '.join(value if name in ('tokens', 'source') else _runs(value))}")
    scored = [str(token) if weight > 0 else "·" for token, weight in zip(made["targets"], made["weights"], strict=True)]
    print(f"  targets: {' '.join(scored)}")


def _runs(values: list[int]) -> list[str]:
    """Return numbers as words, those that repeat as 1x58."""
    counted = [(value, len(list(group))) for value, group in itertools.groupby(values)]
    return [f"{value}x{count}" if count > 1 else str(value) for value, count in counted]
