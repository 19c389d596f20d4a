"""A trained model as a Hugging Face folder: config.json, model.safetensors, the tokenizer's files and a model card.

`transformers` builds the same function from it: same logits, same start of a decoder, same tied tensors.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from research.data.tokenizer import save
from research.interop.config_json import NAME, to_config
from research.models import FAMILIES
from research.models.arch import Arch
from research.models.paths import flatten, unflatten
from research.models.rules import to_huggingface
from research.types import UserError, Vocabulary

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

RATES = ("dropout", "attention_dropout", "activation_dropout", "final_dropout")
POSITIONS = "encoder/positions/embedding"
TYPES = "token_type_ids"
RECORD = "tercet.json"  # transformers passes over it


def check_free(folder: pathlib.Path) -> None:
    """Refuse a folder that something is in already.

    Raises:
        UserError: `folder` is a file, not empty, or where the user is, which another would take the place of.
    """
    if folder.is_dir() and folder.samefile("."):
        raise UserError(f"{folder} is the folder that you are in: name a new one")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder: choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another folder, or remove it first")


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield another folder beside `folder`, which takes its name when all that was written there is on disk.

    Raises:
        UserError: It cannot be written; nothing of it stays.
    """
    from safetensors import SafetensorError

    folder = folder.absolute()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        usual = partial.stat().st_mode & 0o666
        yield partial
        for path in filter(pathlib.Path.is_file, partial.rglob("*")):
            path.chmod(usual)  # safetensors lets none but the owner read its files
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter also where a disk is full
        raise UserError(f"cannot write {folder}: {getattr(error, 'strerror', error)}; choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write(
    folder: pathlib.Path,
    arch: Arch,
    params: Mapping[str, Any],
    tokenizer: Any,
    vocabulary: Vocabulary,
    card: ModelCard,
    *,
    decoder_start: int | None = None,
    record: Mapping[str, Any] | None = None,
    shard: int | str = "5GB",
    labels: Sequence[str] = (),
    problem: str = "",
) -> None:
    """Write the model as `folder`, which appears under this name only when all of it is on disk.

    Args:
        folder: New, or empty.
        arch: With its vocabulary size.
        params: float32 arrays, nested, below "params"; sharded ones are gathered.
        tokenizer: What the model was trained with.
        vocabulary: Of the tokenizer.
        card: Becomes README.md.
        decoder_start: The id that the decoder of an encoder-decoder was trained to begin with.
        record: The resolved configuration of the run, as JSON, from which the folder's readers here know its objective.
        shard: Size above which tensors are spread over several files, as bytes or such as "5GB".
        labels: Names of the labels of a head for labels, in the order of their ids; of a regression none.
        problem: Of a head for labels of a sequence: single_label, multi_label or regression.

    Raises:
        UserError: Something is in `folder`; it cannot be written; or the architecture has no equal in `transformers`.
    """
    check_free(folder)
    arch, params = as_published(arch, params, vocabulary.pad)
    ids = {"pad": vocabulary.pad, "bos": tokenizer.bos_token_id, "eos": vocabulary.eos}
    if arch.structure == "decoder" and arch.head == "sequence" and ids["pad"] == ids["eos"]:
        ids["pad"] = None  # transformers would read the label before the end token, taking that for padding
    config = to_config(arch, **ids, decoder_start=decoder_start, labels=labels, problem=problem)
    tensors = to_huggingface(arch, params)
    with whole_folder(folder) as partial:
        _write_json(partial / NAME, config)
        if arch.structure != "encoder" and arch.head == "vocabulary":
            generation = {key: value for key, value in config.items() if key.endswith("_token_id")}
            _write_json(partial / "generation_config.json", generation)
        if record is not None:
            _write_json(partial / RECORD, record)
        _write_tensors(partial, tensors, shard)
        _write_tokenizer(partial, tokenizer, arch)
        card.save(partial / "README.md")


def as_published(arch: Arch, params: Mapping[str, Any], pad: int | None) -> tuple[Arch, Mapping[str, Any]]:
    """Return the same function as `transformers` describes it: with its family's dropout rates, and RoBERTa's positions
    numbered from its padding id plus 1.

    Rates matter to training alone. T5's config.json has one for all; BERT's has none inside the feed-forward block.

    Raises:
        UserError: A RoBERTa whose tokenizer has no padding token.
    """
    family = FAMILIES[arch.family]
    like = next(iter(family.PRESETS.values()))
    said = {field: key.fields[0] for key in family.CONFIG for field in key.fields}
    arch = replace(arch, **{rate: getattr(arch, said[rate]) if rate in said else getattr(like, rate) for rate in RATES})
    if arch.family != "roberta" or pad == arch.position_offset - 1:
        return arch, params
    if pad is None:
        raise UserError("RoBERTa numbers positions from the padding id, but this tokenizer has none: add a padding token")
    leaves = flatten(params)
    table = np.asarray(leaves[POSITIONS])[arch.position_offset :]
    unused = np.zeros((pad + 1, arch.width), table.dtype)
    leaves[POSITIONS] = np.concatenate([unused, table])
    return replace(arch, position_offset=pad + 1), unflatten(leaves)


def _write_tokenizer(folder: pathlib.Path, tokenizer: Any, arch: Arch) -> None:
    """Write the tokenizer, which gives token types to the models that tell them apart and to no others.

    BERT was trained to tell the two texts of a pair by them; GPT-2 of `transformers` would add them up as tokens.
    """
    save(tokenizer, folder)
    inputs = [name for name in tokenizer.model_input_names if name != TYPES]
    inputs[1:1] = [TYPES] if arch.types > 1 else []
    if inputs != tokenizer.model_input_names:
        path = folder / "tokenizer_config.json"
        _write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"model_input_names": inputs})


def _write_tensors(folder: pathlib.Path, tensors: Mapping[str, np.ndarray], shard: int | str) -> None:
    """Write tensors as one safetensors file, or as several with their index where they are larger than `shard`."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard,
    )
    for file, names in split.filename_to_tensors.items():
        # A transposed view would be written in the order of its memory, which is another matrix.
        contiguous = {name: np.ascontiguousarray(tensors[name]) for name in names}
        save_file(contiguous, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
