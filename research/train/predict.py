"""What a fine-tuned model says of new records: labels with probabilities, entities in text, or generated texts.

Records stream through in chunks: memory does not grow with their number, and a record that cannot be read is one
answer with an error, not the end of the others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from research.data.records import Row
from research.generate.decoding import Prompt, generate
from research.generate.prompts import Reader
from research.generate.settings import Decoding
from research.interop import config_json
from research.interop.folder import locate
from research.models.arch import Arch
from research.models.heads import logits
from research.models.transformer import Transformer
from research.objectives import TASKS as OBJECTIVES
from research.objectives.classification import Classification
from research.objectives.completion import Completion
from research.objectives.seq2seq import Seq2Seq
from research.objectives.tagging import Tagging
from research.tasks import TASKS, classification, columns, judge
from research.tasks.coder import Coder
from research.tasks.entities import marks_entities, spans
from research.tasks.prepare import encode_rows
from research.tasks.rows import Example, Rows, Table
from research.train.evaluate import batches
from research.train.restore import read_model
from research.types import Record, UserError

CHUNK = 1024  # records told the labels of at once
TEXTS = 128  # and answered with texts, which take longer
TRIED = 16  # records of which one at least has to have the columns that the model reads
LENGTH = 512  # longest row for a folder from elsewhere, in tokens

Answer = dict[str, Any]


class Predictor(NamedTuple):
    """A model and all that it takes to answer records."""

    model: Transformer
    params: Any
    objective: Any  # of a task, its labels filled in
    reader: Reader  # has a coder
    batch_size: int
    step: int | None  # of the run's checkpoint; None of a folder
    files: tuple[pathlib.Path, ...]  # that are others where the parameters are
    alone: str | None = None  # the column that is read where it is a record's only one; None: see `settled`


def open_predictor(path: str, checkpoint: str | None = None, batch_size: int = 16) -> Predictor:
    """Return the predictor of a run of a task, of a folder in Hugging Face's layout with a task's head, or of a hub id.

    Of a run it is the best `checkpoint`, unless another is named.

    Raises:
        UserError: There is no model, or none for a task: one of running text is to be fine-tuned first.
    """
    opened = read_model(path, checkpoint)
    reader, objective = opened.reader, opened.reader.objective
    if objective is None:
        objective, length = _named(locate(path), opened.model.arch)
        reader = reader._replace(coder=Coder(reader.tokenizer, reader.vocabulary), length=length)
    if not isinstance(objective, tuple(OBJECTIVES.values())):
        use = "fill-mask" if opened.model.arch.structure == "encoder" else "generate"
        raise UserError(
            f"{path} was trained on running text ({type(objective).__name__}) and answers no records: use {use}, or "
            "fine-tune it on a task"
        )
    return Predictor(opened.model, opened.params, objective, reader, batch_size, opened.step, opened.files)


def _named(folder: pathlib.Path, arch: Arch) -> tuple[Any, int]:
    """Return the objective and the row length of a folder from elsewhere, as its config.json tells them."""
    names, problem = config_json.labels(folder)
    length = min(arch.max_length, LENGTH) if arch.positions == "learned" else LENGTH
    if arch.head == "sequence":
        return Classification(problem=problem, label="label", labels=names), length  # its columns: see `settled`
    if arch.head == "tokens":
        return Tagging(words="words", tags="tags", labels=names), length
    if arch.structure == "encoder-decoder":
        return Seq2Seq(source="source", target="target"), length
    raise UserError(f"{folder} has no head for labels, and no record of a task: fine-tune it first")


def settled(predictor: Predictor, rows: Iterable[Row]) -> Predictor:
    """Return the predictor with what the first of `rows` that can be read decides for all, where it is not decided yet.

    A classifier from elsewhere does not say whether it reads one text or two: a column called text is one, and else a
    known pair of columns is two. Where a record has one column, of whatever name, that is the text.
    """
    if predictor.alone is not None:
        return predictor
    row = next((row for row in rows if not row.error), None)
    if row is None:
        return predictor
    objective = predictor.objective
    if isinstance(objective, Classification) and not objective.text:
        try:
            found = classification.named_columns(objective, row)
        except UserError:  # the record's one column, or an error that names the columns
            found = None
        if found is None or columns.has(row, "text"):
            found = dataclasses.replace(objective, text="text")
        objective = found
    try:
        TASKS[type(objective)].example(objective, row, False)
        alone = ""
    except UserError:
        alone = columns.alone(row)
    return predictor._replace(objective=objective, alone=alone)


def check_columns(predictor: Predictor, rows: Iterable[Row]) -> None:
    """Refuse a file of which none of the first TRIED records has what the model reads, rather than a line for each.

    Raises:
        UserError: What is wrong with the first; names the columns.
    """
    wrong = []
    for row in itertools.islice((row for row in rows if not row.error), TRIED):
        try:
            row = columns.as_line(row, predictor.alone or "")
            TASKS[type(predictor.objective)].example(predictor.objective, row, False)
            return
        except UserError as error:
            wrong.append(error)
    if wrong:
        raise wrong[0]


def predict(predictor: Predictor, rows: Iterable[Row], decoding: Decoding = Decoding()) -> Iterator[Answer]:
    """Yield one answer for each of `rows`, in their order: {"line"} and what the task tells, or {"line", "error"}.

    Classification: predicted (a label, a list of labels, or a number) and probabilities. Tagging: tags of the words, and
    entities with type, text, first and last word, and start and end in characters: of the text, or of the words joined
    by spaces. Others: predicted, its score in nats, and all `texts` where several are asked for; "cut" is true where the
    source had to be.

    Raises:
        UserError: A setting of decoding is out of range.
    """
    return itertools.chain.from_iterable(chunks(predictor, rows, decoding))


def chunks(predictor: Predictor, rows: Iterable[Row], decoding: Decoding = Decoding()) -> Iterator[list[Answer]]:
    """Yield the answers of `predict`, as many at a time as are made at once."""
    writes = isinstance(predictor.objective, Seq2Seq | Completion)
    answer, most = (_texts, TEXTS) if writes else (_labels, CHUNK)
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, most)):
        predictor = settled(predictor, chunk)
        read = [columns.as_line(row, predictor.alone or "") for row in chunk]
        found, wrong = answer(predictor, read, decoding)
        told = found | {number: {"error": error} for number, error in wrong.items()}
        yield [{"line": row.number, **told[number]} for number, row in enumerate(chunk)]


def _labels(predictor: Predictor, rows: Sequence[Row], _: Decoding) -> tuple[dict[int, Answer], dict[int, str]]:
    objective, reader = predictor.objective, predictor.reader
    table, wrong = encode_rows(objective, reader.coder, reader.length, rows, reader.structure)
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
            prompts[number] = predictor.reader.record(predictor.objective, example)
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


def write(predictor: Predictor, prompts: Sequence[Prompt], decoding: Decoding) -> list[list[tuple[str, float]]]:
    """Return for each of `prompts` the texts that the model makes and their scores, in nats, the best first."""
    reader = predictor.reader
    made = generate(
        predictor.model,
        predictor.params,
        prompts,
        reader.settings(decoding),
        batch_size=predictor.batch_size,
        bidirectional=reader.bidirectional,
        size=reader.vocabulary.size,
    )
    decode = functools.partial(reader.tokenizer.decode, skip_special_tokens=True)
    return [[(decode(each.tokens).strip(), each.score) for each in row] for row in made]
