"""Tensors of a Hugging Face folder: safetensors in one file or several, mapped into memory and never unpickled."""

from __future__ import annotations

import json
import math
import pathlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from research.data.files import first_line
from research.types import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
PICKLES = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "tf_model.h5")
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
PART = 1 << 20  # numbers looked at together in search of one that is not finite


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: pathlib.Path
    dtype: str  # safetensors' word
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder by name: read-only views of its files, whose pages are read when they are used."""

    def __init__(self, entries: Mapping[str, Entry]):
        self._entries = entries

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor; nothing of them is read."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the tensor `name` as it is stored: float64, float32, float16 or bfloat16.

        Raises:
            UserError: It holds other numbers than these, or one that is not finite as float32.
        """
        entry = self._entries[name]
        if entry.dtype not in FLOATS:
            raise UserError(
                f"{entry.file}: tensor {name} is of type {entry.dtype}: save it as one of {', '.join(FLOATS)}"
            )
        dtype = np.dtype(FLOATS[entry.dtype])
        if 0 in entry.shape:  # nothing cannot be mapped
            return np.zeros(entry.shape, dtype)
        array = np.asarray(np.memmap(entry.file, dtype, "r", entry.start, entry.shape))
        if not _finite(array.reshape(-1)):
            raise UserError(f"{entry.file}: tensor {name} holds NaN or infinity: its training diverged, use another")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def open_folder(folder: pathlib.Path) -> Tensors:
    """Return the tensors of a folder; only the files' headers are read, and only files directly in it.

    Raises:
        UserError: There is no safetensors file (what is pickled is refused, with the command that converts it); one is
            cut short, broken, or names a tensor twice; or the index of several names what is not there.
    """
    files, index = shards(folder)
    entries: dict[str, Entry] = {}
    for file in files:
        for name, entry in _header(file).items():
            if name in entries:
                raise UserError(f"tensor {name} is in {entries[name].file} and in {file}: fetch the folder anew")
            entries[name] = entry
    for name, file in index.items():
        if name not in entries or entries[name].file.name != file:
            raise UserError(f"{folder / INDEX}: tensor {name} is not in {file} as the index says: fetch both anew")
    return Tensors(entries)


def shards(folder: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, str]]:
    """Return the safetensors files of a folder, and where there are several, the file of each tensor by the index.

    Raises:
        UserError: As `open_folder`, but for what is in the files.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], {}
    path = folder / INDEX
    if not path.is_file():
        raise UserError(_without_safetensors(folder))
    index = _object(path, path.read_bytes()).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise UserError(f"{path}: weight_map does not give the file of each tensor: fetch the index anew")
    for file in dict.fromkeys(index.values()):
        if pathlib.PureWindowsPath(file).name != file or not file.endswith(".safetensors"):  # its rules include ours
            raise UserError(f"{path}: {file!r} is not the name of a safetensors file in this folder: fetch it anew")
        if not (folder / file).is_file():
            raise UserError(f"{path}: the file {file} is missing: fetch it too")
    return [folder / file for file in dict.fromkeys(index.values())], index


def conversion(source: str, kind: str = "AutoModel", options: str = "") -> str:
    """Return the command that writes the model `source` (folder or hub id) of a class of `transformers` anew."""
    target = f"{pathlib.PurePath(source).name or 'model'}-safetensors"
    code = f"from transformers import {kind}; {kind}.from_pretrained({source!r}{options}).save_pretrained({target!r})"
    return f"python -c {shlex.quote(code)}"


def _header(file: pathlib.Path) -> dict[str, Entry]:
    """Return the entries of a safetensors file, whose header the library has found sound."""
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            said = f"a header of {length} in {size} bytes"
            raise UserError(f"{file}: cut short or not safetensors ({said}): fetch it anew")
        header = _object(file, stream.read(length))
    try:
        with safe_open(file, framework="numpy"):  # checks that tensors fill the file without gap or overlap
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: cut short or not safetensors ({first_line(error)}): fetch it anew") from None
    header.pop("__metadata__", None)
    return {
        name: Entry(file, about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0])
        for name, about in header.items()
    }


def _object(file: pathlib.Path, text: bytes) -> dict[str, Any]:
    """Return the JSON object that `text` of `file` is; no name may occur twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise UserError(f"{file}: {twice} is there twice: fetch the file anew")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: its header or text is not JSON ({error}): fetch it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object but {type(found).__name__}: fetch it anew")
    return found


def _finite(numbers: np.ndarray) -> bool:
    """Return whether all `numbers`, [N], are finite as float32; no second copy of them is made."""
    with np.errstate(all="ignore"):
        if math.isfinite(np.sum(numbers, dtype=np.float32)):  # NaN and infinity do not vanish in a sum
            return True
        parts = (numbers[i : i + PART].astype(np.float32) for i in range(0, len(numbers), PART))
        return all(np.isfinite(part).all() for part in parts)  # large ones may sum up to infinity


def _without_safetensors(folder: pathlib.Path) -> str:
    """Return what to do with a folder that has no tensors, or pickled ones."""
    pickled = next((path for pattern in PICKLES for path in sorted(folder.glob(pattern)) if path.is_file()), None)
    if pickled is None:
        return f"{folder} holds no {SINGLE}: give a folder as save_pretrained of transformers writes it"
    if pickled.name == "tf_model.h5":
        command = conversion(str(folder), _class(folder), ", from_tf=True")
        return f"{pickled} is a file of TensorFlow: convert it once, where transformers 4 is installed, with {command}"
    if pickled.name.startswith("pytorch_model"):
        command = conversion(str(folder), _class(folder))
    else:
        load = f"torch.load({str(pickled)!r}, weights_only=True)"
        code = f"import torch; from safetensors.torch import save_file; save_file({load}, {str(folder / SINGLE)!r})"
        command = f"python -c {shlex.quote(code)}"
    return f"{pickled} is pickled, so reading it may run code: if you trust it, convert it once with {command}"


def _class(folder: pathlib.Path) -> str:
    """Return the class of `transformers` that config.json names, for AutoModel leaves heads out."""
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "AutoModel"
    return name if isinstance(name, str) and name.isascii() and name.isidentifier() else "AutoModel"
