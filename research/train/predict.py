"""What a fine-tuned model says of new records: labels with probabilities, entities in text, or generated texts.

Records stream through in chunks: memory does not grow with their number, and a record that cannot be read is one
answer with an error, not the end of the others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import Run, from_json
from research.data.records import Row
from research.data.sources import Source
from research.data.tokenizer import vocabulary
from research.generate.decoding import Prompt, generate
from research.generate.prompts import Reader
from research.generate.settings import Decoding
from research.interop import config_json
from research.interop.export import RECORD
from research.interop.folder import load as pretrained
from research.interop.folder import locate
from research.models.arch import Arch
from research.models.heads import logits
from research.models.transformer import Transformer
from research.objectives import TASKS as OBJECTIVES
from research.objectives.classification import Classification
from research.objectives.completion import Completion
from research.objectives.seq2seq import Seq2Seq
from research.objectives.tagging import Tagging
from research.report import logs
from research.tasks import TASKS, judge, text_scores
from research.tasks.coder import Coder
from research.tasks.entities import marks_entities, spans
from research.tasks.prepare import encode_rows
from research.tasks.rows import Example, Rows, Table
from research.train.evaluate import batches
from research.train.restore import load_run, prepared_again
from research.train.session import keep_compiled
from research.types import Record, Split, UserError

CHUNK = 1024  # records answered at once
LENGTH = 512  # longest row for a folder from elsewhere, in tokens

Answer = dict[str, Any]


class Predictor(NamedTuple):
    """A model and all that it takes to answer records."""

    model: Transformer
    params: Any
    objective: Any  # of a task, its labels filled in
    coder: Coder
    reader: Reader
    length: int  # tokens of a row
    batch_size: int
    step: int | None  # of the run's checkpoint; None of a folder


def open_predictor(path: str, checkpoint: str | None = None, batch_size: int = 16) -> Predictor:
    """Return the predictor of a run of a task, of a folder in Hugging Face's layout with a task's head, or of a hub id.

    Raises:
        UserError: There is no model, or none for a task: a pre-trained one is to be fine-tuned first.
    """
    if (pathlib.Path(path) / logs.RUN).exists():
        loaded = load_run(pathlib.Path(path), checkpoint or "latest")
        model, params, run, step = loaded.model, loaded.params, loaded.run, loaded.step
        objective, length, tokenizer = run.objective, run.data.length, loaded.tokenizer
    else:
        if checkpoint:
            raise UserError(f"--checkpoint {checkpoint}: {path} is no run: it has one set of parameters")
        keep_compiled()
        folder = locate(path)
        found = pretrained(folder)
        if found.tokenizer is None:
            raise UserError(f"{folder} has no tokenizer: add tokenizer.json and tokenizer_config.json")
        model, params, tokenizer, step = found.model, found.params, found.tokenizer, None
        objective, length = _recorded(folder) or _named(folder, found.arch)
    if not isinstance(objective, tuple(OBJECTIVES.values())):
        raise UserError(
            f"{path} was pre-trained ({type(objective).__name__}), for no task: fine-tune it first, or use generate or "
            "fill-mask"
        )
    words = vocabulary(tokenizer)
    start = getattr(words, objective.start) if hasattr(objective, "start") else None
    stop = () if words.eos is None else (words.eos,)
    reader = Reader(tokenizer, words, model.arch.structure, objective, start, stop)
    return Predictor(model, params, objective, Coder(tokenizer, words), reader, length, batch_size, step)


def _recorded(folder: pathlib.Path) -> tuple[Any, int] | None:
    """Return the objective and the row length of a folder that a run was exported to."""
    if not (folder / RECORD).exists():
        return None
    run: Run = from_json(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    return run.objective, run.data.length


def _named(folder: pathlib.Path, arch: Arch) -> tuple[Any, int]:
    """Return the objective and the row length of a folder from elsewhere, as its config.json tells them."""
    names, problem = config_json.labels(folder)
    length = min(arch.max_length, LENGTH) if arch.positions == "learned" else LENGTH
    if arch.head == "sequence":
        return Classification(problem=problem, text="text", label="label", labels=names), length
    if arch.head == "tokens":
        return Tagging(words="words", tags="tags", labels=names), length
    if arch.structure == "encoder-decoder":
        start, _ = config_json.ends(folder, arch.vocab_size)
        eos = config_json.read(folder).get("eos_token_id")
        return Seq2Seq(source="source", target="target", begin="eos" if start == eos else "pad"), length
    raise UserError(f"{folder} has no head for labels, and no record of a task: fine-tune it first")


def predict(predictor: Predictor, rows: Iterable[Row], decoding: Decoding = Decoding()) -> Iterator[dict[str, Any]]:
    """Yield one answer for each of `rows`, in their order: {"line"} and what the task tells, or {"line", "error"}.

    Classification: predicted (a label, a list of labels, or a number) and probabilities. Tagging: tags of the words, and
    entities with type, text, first and last word, and start and end in characters: of the text, or of the words joined
    by spaces. Others: predicted, its score in nats, and all `texts` where several are asked for; "cut" is true where the
    source had to be.

    Raises:
        UserError: A setting of decoding is out of range.
    """
    objective = predictor.objective
    answer = _texts if isinstance(objective, Seq2Seq | Completion) else _labels
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        found, wrong = answer(predictor, chunk, decoding)
        for number, row in enumerate(chunk):
            told = {"error": wrong[number]} if number in wrong else found[number]
            yield {"line": row.number, **told}


class Judged(NamedTuple):
    """A split's examples, what the model says of each, and how good that is."""

    scores: dict[str, Any]
    told: list[dict[str, Any]]  # each example with what was predicted
    worst: list[dict[str, Any]]  # of these, the worst first
    probabilities: np.ndarray | None  # float32[N, n] and gold int64[N], where there is one label of several
    gold: np.ndarray | None


def judged(
    predictor: Predictor, table: Table, decoding: Decoding, limit: int = 0, tokenised: bool = False, most: int = 100
) -> Judged:
    """Return the scores of what `predictor` says of the examples of `table`, or of `limit` of them spread over all.

    Texts are generated, never taken from the targets that the loss is computed on; the worst are those of least ROUGE-L.
    """
    objective, count = predictor.objective, len(table.examples)
    if not isinstance(objective, Seq2Seq | Completion):
        answers = label(predictor, table)
        numbers = sorted(answers)
        if isinstance(objective, Tagging):
            told = [{**table.examples[n], "predicted": answers[n]} for n in numbers]
        else:
            told = [{**table.examples[n], **judge.answer(objective, answers[n])} for n in numbers]
        single = getattr(objective, "problem", "") == "single_label"
        return Judged(
            judge.scores(objective, table.examples, answers),
            told,
            judge.worst(objective, table.examples, answers, most),
            np.stack([answers[n] for n in numbers]) if single else None,
            judge.golden(objective, [table.examples[n] for n in numbers]) if single else None,
        )
    examples = [table.examples[n * count // min(limit or count, count)] for n in range(min(limit or count, count))]
    made = write(predictor, [prompt(predictor, each)[0] for each in examples], decoding)
    texts = [answers[0][0] for answers in made]
    references = [each["references"] for each in examples]
    told = [{**each, "predicted": text} for each, text in zip(examples, texts, strict=True)]
    order = np.argsort(text_scores.rouge(texts, references)["rougeL"], kind="stable")
    worst = [told[i] for i in order[:most]]
    return Judged(text_scores.scores(texts, references, tokenised), told, worst, None, None)


def judged_run(
    folder: pathlib.Path,
    checkpoint: str,
    split: Split,
    source: Source | None,
    decoding: Decoding,
    limit: int,
    tokenised: bool,
) -> Judged:
    """Return what `judged` says of a split of the data of the run in `folder`, or of another source.

    Raises:
        UserError: The run was pre-trained, for no task; or as `evaluate_run`.
    """
    predictor = open_predictor(str(folder), checkpoint)
    run = from_json(logs.read_run(folder)["resolved"])
    return judged(predictor, prepared_again(run, folder, split, source).table(split), decoding, limit, tokenised)


def _labels(predictor: Predictor, rows: Sequence[Row], _: Decoding) -> tuple[dict[int, Answer], dict[int, str]]:
    objective, structure = predictor.objective, predictor.model.arch.structure
    table, wrong = encode_rows(objective, predictor.coder, predictor.length, rows, structure)
    told = label(predictor, table)
    found = {}
    for number in range(len(rows)):
        if number in wrong:
            continue
        if isinstance(objective, Tagging):
            found[number] = _entities(objective, table.examples[number], told.get(number, []))
        else:
            found[number] = judge.answer(objective, told[number])
    return found, wrong


def label(predictor: Predictor, table: Table) -> judge.Answers:
    """Return what the model says of the examples of `table`."""
    gathered = judge.gathering(predictor.objective, table)
    for record, index in batches(Rows(table), predictor.batch_size):
        inputs = predictor.objective(None, record, predictor.reader.vocabulary).inputs  # arranges arrays, batched or not
        gathered.add(index, np.asarray(_logits(predictor.params, inputs, model=predictor.model)))
    return gathered.found()


@functools.partial(jax.jit, static_argnames="model")
def _logits(params: Any, inputs: Record, *, model: Transformer) -> jax.Array:
    return logits(model, params, **inputs)


def _entities(objective: Tagging, example: Example, tags: list[str]) -> Answer:
    """Return tags and, where they mark any, entities with their places in characters."""
    words = example["words"]
    text = example.get("text", " ".join(words))
    ends = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    offsets = example.get("offsets") or [(end, end + len(word)) for end, word in zip(ends, words, strict=False)]
    told: Answer = {"words": words, "tags": tags}
    if marks_entities(objective.labels):
        told["entities"] = [
            {"type": kind, "text": text[offsets[first][0] : offsets[last - 1][1]], "start": offsets[first][0]}
            | {"end": offsets[last - 1][1], "first": first, "last": last - 1}
            for kind, first, last in spans(tags, objective.scheme)
        ]
    return told


def _texts(predictor: Predictor, rows: Sequence[Row], decoding: Decoding) -> tuple[dict[int, Answer], dict[int, str]]:
    task, wrong, examples = TASKS[type(predictor.objective)], {}, {}
    for number, row in enumerate(rows):
        try:
            if row.error:
                raise UserError(row.error)
            examples[number] = task.example(predictor.objective, row, False)
        except UserError as error:
            wrong[number] = str(error)
    prompts: dict[int, tuple[Prompt, bool]] = {}
    for number, example in examples.items():
        try:
            prompts[number] = prompt(predictor, example)
        except UserError as error:
            wrong[number] = str(error)
    made = write(predictor, [each for each, _ in prompts.values()], decoding)
    found = {}
    for (number, (_, cut)), texts in zip(prompts.items(), made, strict=True):
        best, score = texts[0]
        found[number] = {"predicted": best, "score": score} | ({"cut": True} if cut else {})
        if len(texts) > 1:
            found[number]["texts"] = [text for text, _ in texts]
    return found, wrong


def prompt(predictor: Predictor, example: Example) -> tuple[Prompt, bool]:
    """Return what the model reads of an example, and whether it had to be cut.

    Raises:
        UserError: The objective's template alone is longer than a row.
    """
    objective, known = predictor.objective, predictor.reader.vocabulary
    task = TASKS[type(objective)]
    (read,) = task.sources(objective, predictor.coder, predictor.length, [example])
    if isinstance(objective, Seq2Seq):
        return Prompt((task.begin(objective, known),), tuple(read.ids)), read.cut
    return Prompt(tuple(read.ids)), read.cut


def write(predictor: Predictor, prompts: Sequence[Prompt], decoding: Decoding) -> list[list[tuple[str, float]]]:
    """Return for each of `prompts` the texts that the model makes and their scores, in nats, the best first.

    An answer is as long as those that the model was trained on, at most, unless `decoding` says less.
    """
    reader = predictor.reader
    most = min(decoding.max_new_tokens, predictor.objective.target_length)
    settings = dataclasses.replace(reader.settings(decoding), max_new_tokens=most)
    made = generate(
        predictor.model,
        predictor.params,
        prompts,
        settings,
        batch_size=predictor.batch_size,
        bidirectional=reader.bidirectional,
        size=reader.vocabulary.size,
    )
    decode = functools.partial(reader.tokenizer.decode, skip_special_tokens=True)
    return [[(decode(each.tokens).strip(), each.score) for each in row] for row in made]
