"""A trained run read back: its model, parameters and tokenizer, or its scores on any text."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.config import Mesh, Run, averages, from_json, is_task
from research.data.corpus import Prepared
from research.data.sources import Source
from research.data.tokenizer import Tokenizer, load, vocabulary
from research.generate.prompts import Reader
from research.interop.config_json import ends
from research.interop.export import RECORD
from research.interop.folder import load as pretrained
from research.interop.folder import locate
from research.models import ngram_file
from research.models.build import Model
from research.models.ngram import Ngram, NgramModel
from research.report import logs
from research.tasks import judge
from research.tasks.coder import Coder
from research.tasks.prepare import Prepared as TaskPrepared
from research.tasks.prepare import prepared_for
from research.train import counting, processes, sharding, units
from research.train.checkpoint import MANIFEST, Checkpoints
from research.train.evaluate import UNIGRAM, evaluator
from research.train.session import keep_compiled, rows_of
from research.train.step import Trainer, trainer
from research.types import Split, Structure, UserError, Vocabulary

WEIGHTS = ("*.safetensors", "flax_model*.msgpack")


class Loaded(NamedTuple):
    """A run's model, as it was evaluated unless the raw parameters were asked for."""

    run: Run
    step: int
    model: Model
    params: Any
    tokenizer: Any
    vocabulary: Vocabulary
    trainer: Trainer
    trainable: Any  # what was trained of it, as the parameters are: averaged or raw; None of several checkpoints' mean
    manifests: tuple[pathlib.Path, ...]  # of the checkpoints that it is made of


def load_run(folder: pathlib.Path, checkpoint: str = "latest", *, raw: bool = False) -> Loaded:
    """Return the model of a run's `checkpoint` ("latest", "best", a step, or "average:N", the mean of the newest N).

    Where the run kept a moving average it is that, unless the `raw` parameters are asked for.

    Raises:
        UserError: The folder holds no run, or no such or no good checkpoint; or `raw` parameters are asked for, in
            place of their average, where there is none: leave it out.
    """
    record = logs.read_trained(folder)
    run = from_json(record["resolved"])
    if isinstance(run.arch, Ngram):
        raise UserError(f"{folder} holds an n-gram model, which has no checkpoints: evaluate and generate read it")
    if raw and not averages(run):
        raise UserError(f"--raw: {folder} kept no average of its parameters (ema and average are 0), all are raw: leave it out")
    keep_compiled()
    tokenizer = load(str(folder / "tokenizer"))
    words = vocabulary(tokenizer)
    compiled = trainer(run, words, _mesh(run))
    with Checkpoints(folder / "checkpoints", run.keep) as checkpoints:
        steps, manifests = processes.agreed("checkpoint", lambda: _steps(checkpoints, checkpoint, folder)), []
        for step in steps:
            state, notes = checkpoints.restore(compiled.shapes, step)
            for note in notes:
                print(f"warning: {note}", file=sys.stderr)
            manifests.append(checkpoints.folder / str(int(state.step)) / MANIFEST)
            trainable = state.averages if averages(run) and not raw else state.trainable
            found = compiled.merge(trainable, state.frozen)
            params = found if step == steps[0] else jax.tree.map(jnp.add, params, found)
    if len(steps) > 1:  # the mean of the models: that of low-rank factors would be another model
        params, trainable = jax.tree.map(lambda total: total / len(steps), params), None
    return Loaded(run, int(state.step), compiled.model, params, tokenizer, words, compiled, trainable, tuple(manifests))


class Opened(NamedTuple):
    """A model and what reads for it, wherever it came from."""

    model: Model | NgramModel
    params: Any
    reader: Reader
    step: int | None  # of the run's checkpoint; None of a folder
    files: tuple[pathlib.Path, ...]  # that are others where the parameters are: manifests of checkpoints, or weights


def open_model(path: str, checkpoint: str | None = None) -> Opened:
    """Return the model that can be prompted of a run's folder, of a folder in Hugging Face's layout, or of a hub id.

    Of a run it is the best `checkpoint`, unless another is named.

    Raises:
        UserError: As `read_model`; or the model has a head for labels.
    """
    opened = read_model(path, checkpoint)
    if opened.model.arch.head != "vocabulary":
        raise UserError(f"{path} tells labels apart and makes no text: use predict")
    return opened


def read_model(path: str, checkpoint: str | None = None) -> Opened:
    """Return the model of a run's folder, of a folder in Hugging Face's layout, or of a hub id, whatever its head.

    Raises:
        UserError: There is no model, or it is damaged; a `checkpoint` is asked of something that is no run; or the
            folder has no tokenizer.
    """
    run = pathlib.Path(path)
    if (run / logs.RUN).exists():
        recorded = from_json(logs.read_trained(run)["resolved"])
        if isinstance(recorded.arch, Ngram):
            return _opened_ngram(recorded, run)
        return opened_run(load_run(run, checkpoint or "best"))
    if checkpoint:
        raise UserError(f"--checkpoint {checkpoint}: {path} is no run: it has one set of parameters")
    keep_compiled()
    folder = locate(path)
    found = pretrained(folder)
    if found.tokenizer is None:
        raise UserError(f"{folder} has no tokenizer: add tokenizer.json and tokenizer_config.json")
    start, stop = ends(folder, found.arch.vocab_size)
    reader = _reader(found.tokenizer, vocabulary(found.tokenizer), found.arch.structure, _recorded(folder), start, stop)
    weights = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    return Opened(found.model, found.params, reader, None, tuple(weights))


def _recorded(folder: pathlib.Path) -> Run | None:
    """Return the run that a folder was exported from; None of a folder from elsewhere."""
    file = folder / RECORD
    try:
        return from_json(json.loads(file.read_bytes())) if file.exists() else None
    except (OSError, ValueError, UserError) as error:
        said = error if isinstance(error, UserError) else getattr(error, "strerror", None) or "it is not JSON"
        raise UserError(f"{file} does not describe a run ({said}): export the run again") from None


def opened_run(loaded: Loaded) -> Opened:
    """Return a run's model with what reads for it as it was trained."""
    run, words = loaded.run, loaded.vocabulary
    start = getattr(words, run.objective.start) if hasattr(run.objective, "start") else None
    stop = () if words.eos is None else (words.eos,)
    reader = _reader(loaded.tokenizer, words, run.arch.structure, run, start, stop)
    return Opened(loaded.model, loaded.params, reader, loaded.step, loaded.manifests)


def _opened_ngram(run: Run, folder: pathlib.Path) -> Opened:
    """Return the n-gram model of a run, with no parameters but its own tables."""
    tokenizer, file = load(str(folder / "tokenizer")), folder / counting.MODEL
    words = vocabulary(tokenizer)
    reader = _reader(tokenizer, words, "decoder", run, None, (words.eos,))
    return Opened(ngram_file.load(file), None, reader, 0, (file,))


def _reader(
    tokenizer: Any, words: Vocabulary, structure: Structure, run: Run | None, start: int | None, stop: tuple[int, ...]
) -> Reader:
    """Return what reads as the model of `run` was trained to; None is not known."""
    if run is None:
        return Reader(tokenizer, words, structure, None, start, stop)
    coder = Coder(tokenizer, words) if is_task(run) else None
    return Reader(tokenizer, words, structure, run.objective, start, stop, coder, run.data.length)


def _mesh(run: Run) -> jax.sharding.Mesh:
    """Return the run's own mesh, or one device where there are not so many: scores do not depend on it.

    Among several processes that is one device each, all of them for the same rows: any number of rows will do.
    """
    try:
        mesh = sharding.create_mesh(run.mesh)
        sharding.check_batch(run.batch_size, run.microbatches, mesh)
        return mesh
    except UserError:
        return sharding.create_mesh(Mesh(data=1, tensor=jax.device_count() if jax.process_count() > 1 else 1))


def _steps(checkpoints: Checkpoints, name: str, folder: pathlib.Path) -> list[int | None]:
    """Return the steps whose mean `name` means, the newest last; None is the newest good one."""
    if not name.startswith("average:"):
        return [_step(checkpoints, name, folder)]
    count, there = name.removeprefix("average:"), checkpoints.steps()
    if not count.isdecimal() or not 1 <= int(count) <= len(there):
        raise UserError(f"checkpoint {name!r}: {folder} keeps {len(there)}, so give average:1 to average:{len(there)}")
    return there[-int(count) :]


def _step(checkpoints: Checkpoints, name: str, folder: pathlib.Path) -> int | None:
    """Return the step that `name` means; None is the newest good one, also where none was evaluated."""
    if name == "latest":
        return None
    if name == "best":
        return checkpoints.best()
    if not name.isdecimal():
        raise UserError(f"checkpoint {name!r}: give latest, best, average:N or a step of {folder}: {checkpoints.steps()}")
    return int(name)


def prepared_again(run: Run, folder: pathlib.Path, split: Split, source: Source | None) -> Prepared | TaskPrepared:
    """Return a split of the data of the run in `folder`, or of another `source`, with the run's own tokenizer.

    Records of another source are all to be scored, whatever split they are, and may call their columns otherwise.
    """
    data = dataclasses.replace(run.data, tokenizer=Tokenizer(path=str(folder / "tokenizer")))
    if source is not None:
        data = dataclasses.replace(data, sources=(source,))
    return prepared_for(dataclasses.replace(run, data=data), (split,), scored=(split,) if source else None)


class Evaluated(NamedTuple):
    """A run's checkpoint, a split, and how good the one is on the other."""

    scores: dict[str, Any]
    tokens: units.Losses | None  # of every token, where each is predicted from those before it
    units: dict[str, Any] | None  # what documents, rows or examples gave (see `units`), where they are few enough
    fingerprint: str  # of the split's data
    loaded: Loaded | None  # None of an n-gram model
    prepared: Prepared | TaskPrepared
    answers: judge.Answers  # of models that tell labels; of others none


def evaluate_run(folder: pathlib.Path, checkpoint: str, split: Split, source: Source | None = None) -> dict[str, Any]:
    """Return the scores that `evaluated` finds; arguments and errors as there."""
    return evaluated(folder, checkpoint, split, source).scores


def evaluated(
    folder: pathlib.Path,
    checkpoint: str,
    split: Split,
    source: Source | None = None,
    before: Callable[[dict[str, Any]], None] | None = None,
) -> Evaluated:
    """Return how good a run's checkpoint is on a whole split of its own data, or of `source`, with fixed masks.

    The unigram baseline is that of the run's own training rows, also on other text.

    Args:
        before: Given the report of a task's records before they are scored.

    Raises:
        UserError: No such run, checkpoint, split or text.
    """
    record = logs.read_trained(folder)
    run = from_json(record["resolved"])
    loaded = None if isinstance(run.arch, Ngram) else load_run(folder, checkpoint)
    with processes.in_turn("data"):
        prepared = prepared_again(run, folder, split, source)
    recorded = record["fingerprints"].get(split, prepared.parts[split])
    if source is None and recorded != prepared.parts[split]:
        print(f"warning: the {split} text is not what it was when {folder} was trained", file=sys.stderr)
    if before and is_task(run):
        before(*prepared.reports[split])
    rows = rows_of(run, prepared, split, evaluating=True)
    unigram = np.load(folder / UNIGRAM) if (folder / UNIGRAM).exists() else None
    if loaded is None:
        tokens = counting.losses(ngram_file.load(folder / counting.MODEL), rows)
        found = units.scores(tokens, rows, unigram)
        scores = {"run": str(folder), "step": 0, "split": split, "rows": rows.count, **found}
        return Evaluated(scores, tokens, units.by_document(tokens, rows), prepared.parts[split], None, prepared, {})
    labelled = run.arch.head != "vocabulary"
    positions = run.objective.lengths(run.data.length).scored
    gathered = judge.gathering(run.objective, rows.table) if labelled else units.empty(rows, positions)
    found = evaluator(run, loaded.vocabulary, loaded.trainer)(loaded.params, rows, 0, unigram, gathered)
    scores = {"run": str(folder), "step": loaded.step, "split": split, "rows": rows.count, **found}
    tokens = units.by_token(gathered, rows) if run.objective.likelihood else None
    answers = gathered.found() if labelled else {}
    if tokens:
        summed = units.by_document(tokens, rows)
    elif labelled:
        right = judge.right(run.objective, rows.table.examples, answers)
        summed = None if right is None else units.by_example(right)
    else:
        alone = is_task(run) and len(rows.table.examples) == rows.count  # none shares its row with another
        summed = units.by_row(gathered, "example" if alone else "row")
    return Evaluated(scores, tokens, summed, prepared.parts[split], loaded, prepared, answers)
