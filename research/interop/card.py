"""The model card of a run: what was trained on what and how, how well it did, and how to load it elsewhere."""

from __future__ import annotations

import json
import math
import os
import pathlib
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from research.config import Run, averages, from_json, is_task
from research.data.sources import Source, kind, name
from research.models.arch import Arch
from research.objectives import OBJECTIVES
from research.report import logs
from research.report.records import RECORDS
from research.types import HeadKind, Structure, UserError, Vocabulary

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

UNRECORDED = "not recorded"
METRICS = {
    "loss": "loss, nats a scored token",
    "perplexity": "perplexity",
    "accuracy": "accuracy on scored tokens",
    "bits_per_byte": "bits per byte",
}
# Numbers of a row that are no figures.
COUNTS = ("step", "tokens", "elapsed", "scored", "examples", "documents", "words", "support", "unigram_loss")


class Task(NamedTuple):
    """What models of a structure, or with a head for labels, are called on the hub."""

    tag: str
    auto: str  # the class of transformers that loads one with its head


TASKS: dict[Structure | HeadKind, Task] = {
    "encoder": Task("fill-mask", "AutoModelForMaskedLM"),
    "decoder": Task("text-generation", "AutoModelForCausalLM"),
    "encoder-decoder": Task("text2text-generation", "AutoModelForSeq2SeqLM"),
    "sequence": Task("text-classification", "AutoModelForSequenceClassification"),
    "tokens": Task("token-classification", "AutoModelForTokenClassification"),
}


def task(arch: Arch) -> Task:
    """Return what models of this architecture are called on the hub: by their head for labels, else by structure."""
    return TASKS[arch.structure if arch.head == "vocabulary" else arch.head]


def create(folder: str | os.PathLike, step: int, tokenizer: Any, vocabulary: Vocabulary, *, raw: bool = False) -> ModelCard:
    """Return the card of the run in `folder` at `step`, from its run.json and metrics.jsonl alone.

    Args:
        folder: Of the run.
        step: Of the checkpoint that the card goes with; figures are those logged at this step.
        tokenizer: The run's own.
        vocabulary: Of the tokenizer.
        raw: Whether the parameters are the raw ones of a run that evaluated their moving average; no figures then.

    Raises:
        UserError: The folder holds no run, or its files are damaged.
    """
    from huggingface_hub import ModelCard, ModelCardData

    record = logs.read_run(folder)
    run = from_json(record["resolved"])
    evaluations = [row for row in logs.read(folder) if row["kind"] == "evaluation"]
    after = None if raw else next((row for row in reversed(evaluations) if row["step"] == step), None)
    before = next((row for row in evaluations if row["step"] == 0), None)
    ids = sorted({source.path for source in run.data.sources if is_hub_id(source)})
    data = ModelCardData(
        model_name=run.name,
        library_name="transformers",
        pipeline_tag=task(run.arch).tag,
        tags=["tercet", run.arch.family, objective_name(run)],
        datasets=ids or None,
        metrics=[metric for metric in figures(run, after) if metric not in ("loss", "bits_per_byte")] or None,
        eval_results=results(run, after) if after else None,
    )
    sections = [
        _title(run, record, step, raw),
        _use(run, tokenizer, vocabulary),
        _objective(run),
        _data(run, record),
        _figures(run, before, after, raw),
        _making(run, record, step),
        f"## Configuration\n\n```json\n{json.dumps(record['resolved'], indent=1)}\n```",
    ]
    text = "\n\n".join(sections)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def figures(run: Run, row: dict[str, Any] | None) -> dict[str, str]:
    """Return {key: what it is called} of the figures in an evaluation row: of a task, all the scores that it has."""
    row = row or {}
    found = {metric: label for metric, label in METRICS.items() if metric in row}
    if not is_task(run):
        return found
    found |= {
        key: key.replace("_", " ") for key, value in row.items() if _is_finite(value) and key not in (*METRICS, *COUNTS)
    }
    if run.arch.head != "vocabulary":
        per = {"multi_label": "nats a label", "regression": "mean squared error"}
        loss = {"loss": f"loss, {per.get(getattr(run.objective, 'problem', ''), 'nats a scored label')}"}
        found |= {key: label for key, label in (loss | {"accuracy": "accuracy"}).items() if key in row}
    return found


def results(run: Run, row: dict[str, Any]) -> list[EvalResult]:
    """Return the figures of an evaluation row as the hub's index has them; what is not a finite number is left out."""
    from huggingface_hub import EvalResult

    sources = run.data.sources
    ids = [source.path for source in sources if is_hub_id(source)]
    return [
        EvalResult(
            task_type=task(run.arch).tag,
            dataset_type=ids[0] if len(ids) == len(sources) == 1 else "text",
            dataset_name=" + ".join(map(name, sources)),
            dataset_config=sources[0].name or None if len(sources) == 1 else None,
            dataset_split=row["split"],
            metric_type=metric,
            metric_name=label,
            metric_value=row[metric],
        )
        for metric, label in figures(run, row).items()
        if _is_finite(row[metric])
    ]


def remarks(run: Run, tokenizer: Any, vocabulary: Vocabulary) -> list[str]:
    """Return what holds of the model and `transformers` has no word for, one sentence or two each."""
    found = []
    match objective_name(run):
        case "prefix":
            found.append(
                "It was trained as a prefix language model: tokens of the prefix attend to one another in both "
                "directions. `transformers` runs it with causal attention throughout, under which its predictions differ."
            )
        case "span_corruption":
            found.append(
                "Hidden spans are written as `<extra_id_0>`, `<extra_id_1>`, ... in the input, which ends with "
                f"`{tokenizer.eos_token}`; the output repeats each of them before the text of its span."
            )
        case "mixture":
            modes = ", ".join(
                f"`{token}` ({mode})"
                for token, mode in zip(tokenizer.convert_ids_to_tokens(vocabulary.modes.tolist()), "RSX", strict=True)
            )
            found.append(
                f"An input begins with a mode token, one of {modes}; hidden spans are written as `<extra_id_0>`, "
                f"`<extra_id_1>`, ..., it ends with `{tokenizer.eos_token}`, and the output repeats each of them before "
                "the text of its span."
            )
        case "classification" if run.arch.structure == "decoder":
            found.append(
                f"The label is read from the state of `{tokenizer.eos_token}` behind the text, which `transformers` "
                "does not add: end every text with it."
            )
        case "tagging":
            found.append(
                "The tag of a word is that of its first token: with `pipeline`, use `aggregation_strategy=\"first\"`."
            )
        case "seq2seq" if run.objective.prompt != "{source}":
            found.append(f"The encoder reads {_shown(run.objective.prompt)}, filled in.")
        case "completion":
            found.append(f"It answers prompts of the form {_shown(run.objective.prompt)}, filled in.")
            if run.objective.bidirectional:
                found.append(
                    "Tokens of a prompt attended to one another in both directions in training. `transformers` runs it "
                    "with causal attention throughout, under which its predictions differ."
                )
    if not run.data.cross_documents and not is_task(run):
        found.append(
            "Documents packed into one row did not see one another in training, and positions began anew in each. "
            "Give `transformers` one document a row."
        )
    return found


def objective_name(run: Run) -> str:
    """Return the name of the objective of `run` in the table of objectives."""
    return next(key for key, cls in OBJECTIVES.items() if type(run.objective) is cls)


def is_hub_id(source: Source) -> bool:
    """Return whether a source is a data set of the hub; files that have gone since are not."""
    try:
        return kind(source) == "hub"
    except UserError:
        return False


def licence(source: Source, records: pathlib.Path = RECORDS) -> tuple[str, str]:
    """Return (licence, where it is from) of a source by the records of third-party data, or UNRECORDED and "".

    A hub id matches a record by its address; files match by the checksum of any that the record names.
    """
    for file in sorted(records.glob("*/METADATA.toml")):
        record = tomllib.loads(file.read_text(encoding="utf-8"))
        same_id = is_hub_id(source) and record["source"].lower().endswith(f"/datasets/{source.path.lower()}")
        if record["kind"] == "dataset" and (same_id or _holds(source, record.get("sha256", {}))):
            return record["licence"], record["source"]
    return UNRECORDED, ""


def _holds(source: Source, checksums: dict[str, str]) -> bool:
    """Return whether a local source is, or has in it, a file of one of these names and its SHA-256."""
    import hashlib

    path = pathlib.Path(source.path).expanduser()
    files = [path] if path.is_file() else [path / named for named in checksums if path.is_dir()]
    for file in files:
        if file.name in checksums and file.is_file():
            with open(file, "rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == checksums[file.name]:
                    return True
    return False


# --- sections ---------------------------------------------------------------------------------------------------------


def _title(run: Run, record: dict[str, Any], step: int, raw: bool) -> str:
    arch = run.arch
    both = arch.structure == "encoder-decoder"
    depth = f"depth {arch.encoder_layers} + {arch.depth}" if both else f"depth {arch.layers}"
    average = ""
    if averages(run):
        kind = f"moving average of its parameters (decay {run.ema:g})" if run.ema else (
            f"mean of its parameters over the last {run.average:.0%} of the steps"
        )
        average = " These are its raw parameters, not their average." if raw else f" These are the {kind}."
    origin = f" from `{run.init.path}`" if run.init.path else ""
    rows = step * run.batch_size
    amount = f"{rows:,} rows" if is_task(run) else f"{rows * run.data.length:,} tokens"
    return (
        f"# {run.name}\n\nA {arch.family.upper()} {arch.structure} of {depth} and width {arch.width}, "
        f"{record['parameters']:,} parameters, trained by Tercet{origin} for {step:,} of {run.steps:,} "
        f"steps ({amount}).{average}"
    )


def _use(run: Run, tokenizer: Any, vocabulary: Vocabulary) -> str:
    auto = task(run.arch).auto
    lines = [
        "## Use\n\n```python",
        f"from transformers import {auto}, AutoTokenizer\n",
        'folder = "."  # or the id of this repository',
        f"model = {auto}.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n```",
    ]
    return "\n".join([*lines, *(f"\n- {remark}" for remark in remarks(run, tokenizer, vocabulary))])


def _objective(run: Run) -> str:
    values = vars(run.objective)
    table = _table(("field", "value"), [(f"`{field}`", _shown(value)) for field, value in values.items()])
    return f"## Objective\n\n`{objective_name(run)}`" + (f"\n\n{table}" if values else ", which has no fields.")


def _data(run: Run, record: dict[str, Any]) -> str:
    rows = []
    for source in run.data.sources:
        terms, origin = licence(source)
        rows.append((f"`{name(source)}`", f"{source.weight:g}", terms, origin or UNRECORDED))
    prints = record.get("fingerprints") or {}
    length = f"Rows of {run.data.length} tokens"
    if is_task(run):
        most = f"up to {run.objective.per_row} examples" if run.objective.per_row > 1 else "one example"
        length = f"Records; rows of {run.data.length} tokens hold {most}"
    lines = [
        f"## Data\n\n{_table(('source', 'weight', 'licence', 'from'), rows)}\n",
        f"{length}. Fingerprints: data `{prints.get('data')}`, tokenizer "
        f"`{prints.get('tokenizer')}`. The licence of the model itself is for its publisher to state.",
    ]
    return "\n".join(lines)


def _figures(run: Run, before: dict[str, Any] | None, after: dict[str, Any] | None, raw: bool) -> str:
    head = "## Evaluation\n\n"
    if after is None:
        why = "of the moving average, not of these parameters" if raw else "not made at this step"
        return f"{head}The run's own evaluations are {why}."
    unigram = {}
    if _is_finite(after.get("unigram_loss")):
        unigram = {"loss": after["unigram_loss"], "perplexity": math.exp(min(after["unigram_loss"], 700.0))}
    which = f"{run.evaluate_rows:,} rows of the" if run.evaluate_rows else "the whole"
    rows = [
        [label, *(_number(row.get(metric)) for row in (before or {}, after, unigram)), _interval(after, metric)]
        for metric, label in figures(run, after).items()
    ]
    if is_task(run):
        table = _table(("", "before training", "after", "95 % interval"), [(*row[:3], row[4]) for row in rows])
        count = f", {after['examples']:,} examples" if "examples" in after else ""
        return f"{head}On {which} {after['split']} split{count}. Intervals are over resampled examples.\n\n{table}"
    table = _table(("", "before training", "after", "unigram"), [tuple(row[:4]) for row in rows])
    return (
        f"{head}On {which} {after['split']} split, {after['scored']:,} scored tokens, corrupted the same way every time. "
        f"Unigram is the best guess without context, counted on training text.\n\n{table}"
    )


def _making(run: Run, record: dict[str, Any], step: int) -> str:
    git = record.get("git")
    devices = record.get("devices") or {}
    command = record.get("command")
    rows = [
        ("step", f"{step:,}"),
        ("started", record.get("started", UNRECORDED)),
        ("git commit", f"`{git['commit']}`{' with local changes' if git['dirty'] else ''}" if git else UNRECORDED),
        ("devices", f"{devices.get('count')} x {devices.get('kind')}" if devices else UNRECORDED),
        ("versions", ", ".join(f"{key} {value}" for key, value in (record.get("versions") or {}).items() if value)),
        ("resumed", f"{len(record.get('resumed', []))} times"),
    ]
    said = f"```\n{command}\n```" if command else "The command is not recorded; the configuration below is all of it."
    return f"## Making\n\n{said}\n\n{_table(('', ''), rows)}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _shown(value: Any) -> str:
    """Return a field's value for a cell of a table, where texts may have no line breaks."""
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "-"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if isinstance(value, str) else f"{value}"


def _interval(row: dict[str, Any], metric: str) -> str:
    """Return the interval of a figure that a row has beside it."""
    return " to ".join(map(_number, row.get(f"{metric}_interval") or ())) or "-"


def _number(value: Any) -> str:
    return f"{value:,.4f}" if _is_finite(value) else "-"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
