"""What a run starts from where `init.path` names something: another run, a folder in Hugging Face's layout, a hub id."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp

from research.config import Run, from_json
from research.data.tokenizer import fingerprint, load, vocabulary
from research.interop import config_json, folder
from research.interop.positions import resize_positions
from research.models.arch import Arch, with_head
from research.models.paths import flatten, unflatten
from research.models.rules import HEADS
from research.models.build import parameter_shapes
from research.objectives.seq2seq import Seq2Seq
from research.report import logs
from research.types import HeadKind, UserError

FRESH = 0.02  # the RMS of BERT's embeddings as they begin
OWN = ("dropout", "attention_dropout", "activation_dropout", "init")  # fields of arch that stay the run's


def resolve(run: Run) -> Run:
    """Return `run` with the shape of what it starts from, and its tokenizer where no other is named.

    Raises:
        UserError: There is no model at `init.path`, or no tokenizer and none is named.
    """
    if not run.init.path:
        return run
    arch = with_head(_held(run.init.path, run.objective.head), run.objective.head)
    own = {name: getattr(run.arch, name) for name in OWN}
    if run.init.positions == "resize":
        own["max_length"] = run.arch.max_length
    data = run.data
    path = run.init.path if not _is_run(run.init.path) else str(pathlib.Path(run.init.path) / "tokenizer")
    held = folder.has_tokenizer(folder.locate(path))
    if not data.tokenizer.path:
        if not held:
            raise UserError(f"{path} has no tokenizer: name that of the model with --data.tokenizer.path")
        data = dataclasses.replace(data, tokenizer=dataclasses.replace(data.tokenizer, path=path))
    elif held and fingerprint(load(path)) != fingerprint(load(data.tokenizer.path)):
        print(
            f"warning: {run.init.path} was trained with another tokenizer than {data.tokenizer.path}: what it knows of its "
            "pieces is lost; --data.tokenizer.path '' takes its own",
            file=sys.stderr,
        )
    run = dataclasses.replace(run, arch=dataclasses.replace(arch, **own), data=data)
    return _beginning(run) if isinstance(run.objective, Seq2Seq) and not run.objective.begin else run


def _beginning(run: Run) -> Run:
    """Return `run` with the token that the decoder of what it starts from was trained to begin with.

    Raises:
        UserError: That is neither the padding nor the end token of the tokenizer.
    """
    if _is_run(run.init.path):
        begin = getattr(_recorded(run.init.path).objective, "start", "pad")  # an encoder's run is refused for its shape
    else:
        start, _ = config_json.ends(folder.locate(run.init.path), run.arch.vocab_size)
        words = vocabulary(load(run.data.tokenizer.path))
        begin = "eos" if start == words.eos else "pad"
        if start is not None and start not in (words.eos, words.pad):
            raise UserError(
                f"{run.init.path} begins its decoder with token {start}, neither padding nor end: set objective.begin to "
                "train it to begin with pad or eos"
            )
    return dataclasses.replace(run, objective=dataclasses.replace(run.objective, begin=begin))


def like(run: Run, recorded: Run) -> Run:
    """Return `run` with the shape of the resolved run that it resumes, and its tokenizer and its decoder's start token
    where it names no other."""
    arch = dataclasses.replace(recorded.arch, **{name: getattr(run.arch, name) for name in OWN})
    tokenizer = run.data.tokenizer if run.data.tokenizer.path else recorded.data.tokenizer
    objective = run.objective
    if isinstance(objective, Seq2Seq) and not objective.begin:
        objective = dataclasses.replace(objective, begin=recorded.objective.begin)
    data = dataclasses.replace(run.data, tokenizer=tokenizer)
    return dataclasses.replace(run, arch=arch, data=data, objective=objective)


def parameters(run: Run, shardings: Any) -> tuple[dict[str, jax.Array], list[str]]:
    """Return {path: float32 array} that a resolved `run` starts from, and the paths of those left to its seed.

    Those left are heads that the checkpoint has not: of a base model, the transform before the vocabulary.

    Args:
        run: As `resolve` returned it.
        shardings: jax.sharding.Sharding of every parameter, nested, below "params"; parameters go straight there.

    Raises:
        UserError: The model is damaged; the message names the file or tensor.
    """
    if not run.init.path:
        return {}, []
    held = dataclasses.replace(run.arch, max_length=_held(run.init.path, run.arch.head).max_length)
    others = () if _told_apart(run.init.path) == _labels(run) else ("classifier/",)  # made for other labels
    if _is_run(run.init.path):
        from research.train.restore import load_run  # which opens sessions, which begin here

        params = load_run(pathlib.Path(run.init.path), "best").params
        wanted = flatten(parameter_shapes(held))
        kept = {path: leaf for path, leaf in flatten(params).items() if path in wanted and not path.startswith(others)}
        params, fresh = unflatten(kept), wanted.keys() - kept
    else:
        params, fresh = folder.parameters(run.init.path, held, shardings, HEADS, others)
    if held.max_length != run.arch.max_length:
        params, _ = resize_positions(params, held, run.arch.max_length)
    given = rescaled(flatten(params), run.arch) if run.init.rescale else flatten(params)
    places = flatten(shardings)
    return {path: jax.device_put(leaf, places[path]) for path, leaf in given.items()}, sorted(fresh)


def rescaled(params: dict[str, Any], arch: Arch) -> dict[str, Any]:
    """Return {path: array} of the same function, with token embeddings of an RMS of 0.02, which fresh ones have.

    The norm of the sum of embeddings takes out their scale; tied logits get it back from the head's norm. From an encoder
    whose embeddings had grown to 0.07, one epoch of CoNLL-2003 ended at an F1 of 0.678 with it and 0.651 without, three
    of SST-2 at an accuracy of 0.776, and 0.790 without: single runs at the same rate.
    """
    tied = arch.head == "vocabulary" and arch.tied
    factor = FRESH / jnp.sqrt(jnp.mean(jnp.square(params["tokens/embedding"])))
    tables = {path for path in params if re.search(r"(tokens|positions|types)/embedding$", path)}
    others = {path for path in params if tied and path.startswith("head/norm/")}
    scale = lambda path: factor if path in tables else 1 / factor if path in others else 1  # noqa: E731
    return {path: leaf * scale(path) for path, leaf in params.items()}


def _is_run(path: str) -> bool:
    return (pathlib.Path(path) / logs.RUN).exists()


def _recorded(path: str) -> Run:
    """Return the resolved run that the folder at `path` is of."""
    return from_json(logs.read_trained(pathlib.Path(path))["resolved"])


def _told_apart(path: str) -> tuple[HeadKind, tuple[str, ...]]:
    """Return what the model at `path` tells apart: its head, and the names of its labels."""
    if _is_run(path):
        return _labels(_recorded(path))
    return folder.architecture(path).head, config_json.labels(folder.locate(path))[0]


def _labels(run: Run) -> tuple[HeadKind, tuple[str, ...]]:
    return run.arch.head, getattr(run.objective, "labels", ())


def _held(path: str, head: HeadKind) -> Arch:
    """Return the architecture at `path`, with an LM head: one that is missing there will be made.

    Raises:
        UserError: There is no model; or a run that was trained on labels is to predict tokens.
    """
    if _is_run(path):
        arch = _recorded(path).arch
        if head == "vocabulary" and arch.head != "vocabulary":
            raise UserError(f"{path} was trained on labels and predicts no tokens: start from what it started from")
        return arch
    where = folder.locate(path)
    return dataclasses.replace(config_json.to_arch(config_json.read(where), str(where / config_json.NAME)), pooler=False)
