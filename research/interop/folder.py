"""A Hugging Face folder as a model of ours: its architecture, parameters and tokenizer."""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from research.data import hub
from research.data.files import first_line
from research.interop import config_json, flax_msgpack, tensors
from research.models.arch import Arch
from research.models.paths import flatten, unflatten
from research.models.rules import heads, leaves, match
from research.models.transformer import Transformer
from research.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WANTED = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors", "flax_model*.msgpack")  # of a hub id
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")

Sharding = Callable[[str], jax.sharding.Sharding] | Mapping[str, Any]
"""Where parameters go: a function of their paths, or a nested dict as they are."""


class Pretrained(NamedTuple):
    """A model and all that it takes to use it."""

    model: Transformer
    params: dict[str, Any]  # float32 arrays, nested, below "params"
    tokenizer: PreTrainedTokenizerFast | None  # None where the folder has none
    arch: Arch


def load(path: str | os.PathLike, sharding: Sharding | None = None) -> Pretrained:
    """Return the pretrained model of a folder or hub id; code that comes with it is never run.

    A file without a head gives an architecture without one (and with the pooler, if it has that); where the head shall
    be new, see `parameters`. What the labels of a head for labels are called, `config_json.labels` says.

    Args:
        path: A folder as save_pretrained of transformers writes it, or a hub id such as "openai-community/gpt2".
        sharding: Where each parameter goes; None: to the default device, each whole.

    Raises:
        UserError: The folder is not there, not whole, of an unsupported family or layout, or its tokenizer has more
            ids than the embedding has rows; the message names the file, field or tensor and what to do.
    """
    folder = locate(path)
    if _has_safetensors(folder) or not flax_msgpack.is_in(folder):
        tensors.shards(folder)  # what is pickled is refused before anything takes time
    arch = architecture(folder)
    tokenizer = _tokenizer(folder, arch)
    params, _ = parameters(folder, arch, sharding)
    return Pretrained(Transformer(arch), params, tokenizer, arch)


def architecture(path: str | os.PathLike) -> Arch:
    """Return the architecture of a folder or hub id, of its config.json and the names of its tensors.

    A folder without tensors is taken to have the head that config.json names, tied as it says.

    Raises:
        UserError: As `load`, but for what is in the tensors.
    """
    folder = locate(path)
    where = folder / config_json.NAME
    arch = config_json.as_named(config_json.read(folder), str(where))
    if not (_has_safetensors(folder) or flax_msgpack.is_in(folder)):
        return arch
    found = _open(folder)
    if arch.head != "vocabulary" and "classifier/kernel" not in heads(arch, found):
        raise UserError(f"{where}: architectures names a head for labels, but no tensor is one: fetch the folder anew")
    return _as_held(arch, found)


def parameters(
    path: str | os.PathLike,
    arch: Arch,
    sharding: Sharding | None = None,
    optional: tuple[str, ...] = (),
    fresh: tuple[str, ...] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Return the float32 parameters of `arch` in a folder, and the paths of those that it lacks.

    They are made tensor by tensor, each from its part of a mapped file: beyond the parameters themselves, no more
    memory is taken than the largest of them needs.

    Args:
        path: Folder or hub id.
        arch: What to read; may have heads that the file has not, and lack heads that it has.
        sharding: As in `load`.
        optional: How paths begin that the file may lack, as research.models.rules.HEADS; those are left to the caller
            to initialise. A classifier of another number of labels counts as lacking.
        fresh: How paths begin that are left to the caller whatever the file has, as ("classifier/",) where its labels
            are others.

    Raises:
        UserError: As `load`, and for a tensor that is missing, unexpected, of another shape, or not finite.
    """
    folder = locate(path)
    found = _open(folder)
    if arch.encoder_layers + arch.depth > len(found):  # before a deep model is traced in vain
        raise UserError(
            f"{folder}: {len(found)} tensors cannot hold the {arch.encoder_layers + arch.depth} blocks that "
            f"{config_json.NAME} speaks of: fetch the folder anew"
        )
    try:
        matches, absent = match(arch, found.shapes, optional, fresh)
        matches.sort(key=lambda one: -math.prod(found.shapes[one.name]))  # large ones while there is room for a copy
        place = _placement(sharding)
        return unflatten({path: place(path, array) for path, array in leaves(matches, found)}), absent
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(str(folder)) else f"{folder}: {said}") from None


def locate(path: str | os.PathLike) -> pathlib.Path:
    """Return the folder `path`, or that of a hub id in the hub's cache, fetched where it is not there yet.

    Raises:
        UserError: There is no such folder, no such id, or no way to the hub: give a local folder.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        if os.path.exists(f"{name}/adapter_config.json") and not os.path.exists(f"{name}/{config_json.NAME}"):
            raise UserError(f"{name} holds low-rank updates alone: export the whole model, without --adapter")
        return pathlib.Path(name)
    if name.startswith("runs/"):  # where train keeps runs, not an owner on the hub
        experiment = f"experiments/{name.removeprefix('runs/').rstrip('/')}.py"
        remedy = f"python -m research train {experiment}" if os.path.isfile(experiment) else "train that run first"
        raise UserError(f"no folder {name!r} yet: {remedy}, or correct the path")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(
            f"no folder {name!r}: give an existing folder (a run's, or one in Hugging Face's layout), or a hub id such "
            "as 'openai-community/gpt2'"
        )
    folder = _snapshot(name, local_files_only=True)
    if isinstance(folder, pathlib.Path) and _whole(folder):
        return folder
    found = _snapshot(name) if _online() else "it is not in the hub's cache, and the hub cannot be reached"
    if isinstance(found, str):
        raise UserError(
            f"no folder {name!r}, and no model of that hub id: {found}; give a run's folder, or a "
            "local folder with config.json, model.safetensors and the tokenizer's files, or check the id and the network"
        )
    if not (any(found.glob("*.safetensors")) or flax_msgpack.is_in(found)):
        raise UserError(f"{name} has no safetensors on the hub: convert it once with {tensors.conversion(name)}")
    return found


def _snapshot(name: str, **options: bool) -> pathlib.Path | str:
    """Return the folder of a hub id, or what is wrong."""
    from huggingface_hub import snapshot_download

    try:
        return pathlib.Path(snapshot_download(name, allow_patterns=list(WANTED), **options))
    except Exception as error:  # the client raises many kinds; each is the user's id or network to mend
        return first_line(error)


def _whole(folder: pathlib.Path) -> bool:
    """Return whether a cached folder holds a model: an earlier fetch may have been of its tokenizer alone."""
    try:
        held = flax_msgpack.is_in(folder) if not _has_safetensors(folder) else bool(tensors.shards(folder))
        return held and (folder / config_json.NAME).is_file()
    except UserError:
        return False


def _online() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and hub.answers(constants.ENDPOINT)


def _has_safetensors(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in (tensors.SINGLE, tensors.INDEX))


def _open(folder: pathlib.Path) -> tensors.Tensors | flax_msgpack.Tensors:
    """Return the tensors of a folder: its safetensors, or else those of an old Flax checkpoint."""
    if not _has_safetensors(folder) and flax_msgpack.is_in(folder):
        return flax_msgpack.read(folder)
    return tensors.open_folder(folder)


def _as_held(arch: Arch, names: Iterable[str]) -> Arch:
    """Return `arch` with the heads that a file with tensors of these `names` holds.

    BERT's pooler counts only where there is no LM head, which has no use for it. Heads for labels are config.json's.
    """
    if arch.head != "vocabulary":
        return arch
    held = heads(arch, names)
    transform = any(path.startswith(("head/transform/", "head/norm/")) for path in held)
    head = transform or "head/bias" in held
    return replace(
        arch,
        tied=arch.tied or "head/kernel" not in held,
        head_transform=arch.head_transform and head,
        head_bias=arch.head_bias and head,
        pooler=not head and any(path.startswith("pooler/") for path in held),
    )


def has_tokenizer(folder: pathlib.Path) -> bool:
    """Return whether `folder` holds a tokenizer's files; without any, AutoTokenizer would make an empty one."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def _tokenizer(folder: pathlib.Path, arch: Arch) -> PreTrainedTokenizerFast | None:
    """Return the folder's tokenizer, if any, whose ids the embedding of `arch` must have rows for."""
    from research.data import tokenizer

    if not has_tokenizer(folder):
        return None
    found = tokenizer.load(str(folder))
    size = max(len(found), max(found.get_vocab().values(), default=0) + 1)
    if size > arch.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {size} ids but the embedding only {arch.vocab_size} rows: "
            "use the tokenizer that the model was trained with"
        )
    return found


def _placement(sharding: Sharding | None) -> Callable[[str, np.ndarray], jax.Array]:
    """Return the function that puts the array of a path where `sharding` says, as float32.

    Arrays are copied first, each shard by itself: on the CPU, jax would keep what lies at a round address where it is,
    in the mapped file, and who overwrites that would overwrite parameters. Each is waited for: a busy device would
    leave many copies on the host, where there may be room for one.
    """

    def copied(array: np.ndarray) -> np.ndarray:
        return np.array(array, np.float32, order="C")

    where = sharding if sharding is None or callable(sharding) else flatten(sharding).__getitem__

    def place(path: str, array: np.ndarray) -> jax.Array:
        if where is None:
            placed = jax.device_put(copied(array))
        else:
            placed = jax.make_array_from_callback(array.shape, where(path), lambda index: copied(array[index]))
        return jax.block_until_ready(placed)

    return place
