"""What a run starts from where `init.path` names something: another run, a folder in Hugging Face's layout, a hub id."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax

from research.config import Run, from_json
from research.interop import config_json, folder
from research.interop.positions import resize_positions
from research.models.arch import Arch
from research.models.paths import flatten
from research.models.rules import HEADS
from research.report import logs
from research.types import UserError

OWN = ("dropout", "attention_dropout", "activation_dropout", "init")  # fields of arch that stay the run's


def resolve(run: Run) -> Run:
    """Return `run` with the shape of what it starts from, and its tokenizer where no other is named.

    Raises:
        UserError: There is no model at `init.path`, or no tokenizer and none is named.
    """
    if not run.init.path:
        return run
    arch = _held(run.init.path)
    own = {name: getattr(run.arch, name) for name in OWN}
    if run.init.positions == "resize":
        own["max_length"] = run.arch.max_length
    data = run.data
    if not data.tokenizer.path:
        path = run.init.path if not _is_run(run.init.path) else str(pathlib.Path(run.init.path) / "tokenizer")
        if not folder.has_tokenizer(folder.locate(path)):
            raise UserError(f"{path} has no tokenizer: name that of the model with --data.tokenizer.path")
        data = dataclasses.replace(data, tokenizer=dataclasses.replace(data.tokenizer, path=path))
    return dataclasses.replace(run, arch=dataclasses.replace(arch, **own), data=data)


def like(run: Run, recorded: Run) -> Run:
    """Return `run` with the shape of the resolved run that it resumes, and its tokenizer where it names no other."""
    arch = dataclasses.replace(recorded.arch, **{name: getattr(run.arch, name) for name in OWN})
    tokenizer = run.data.tokenizer if run.data.tokenizer.path else recorded.data.tokenizer
    return dataclasses.replace(run, arch=arch, data=dataclasses.replace(run.data, tokenizer=tokenizer))


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
    held = dataclasses.replace(run.arch, max_length=_held(run.init.path).max_length)
    if _is_run(run.init.path):
        from research.train.restore import load_run  # which opens sessions, which begin here

        params, fresh = load_run(pathlib.Path(run.init.path), "latest").params, []
    else:
        params, fresh = folder.parameters(run.init.path, held, shardings, HEADS)
    if held.max_length != run.arch.max_length:
        params, _ = resize_positions(params, held, run.arch.max_length)
    given = flatten(params)
    places = flatten(shardings)
    return {path: jax.device_put(leaf, places[path]) for path, leaf in given.items()}, fresh


def _is_run(path: str) -> bool:
    return (pathlib.Path(path) / logs.RUN).exists()


def _held(path: str) -> Arch:
    """Return the architecture at `path`, with an LM head: one that is missing there will be made."""
    if _is_run(path):
        return from_json(logs.read_run(pathlib.Path(path))["resolved"]).arch
    where = folder.locate(path)
    held = folder.architecture(where)
    full = config_json.to_arch(config_json.read(where), str(where / config_json.NAME))
    head = {name: getattr(full, name) for name in ("tied", "scale_logits", "head_transform", "head_bias")}
    return dataclasses.replace(held, **head, pooler=False)
