"""Old Flax checkpoints of Hugging Face, `flax_model.msgpack`, as the tensors that the torch twin of the model has.

`transformers` wrote them until it gave up Flax with version 5. Their trees are named as torch's modules are, so only
the last word of a path is translated. Nothing of a file is ever run: msgpack holds numbers and names.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.data.files import first_line
from research.models.paths import flatten
from research.types import UserError

NAME = "flax_model.msgpack"
INDEX = f"{NAME}.index.json"  # beside the parts of a checkpoint that was larger than its writer's limit
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


class Tensors(dict[str, np.ndarray]):
    """Tensors by name, with `shapes` as research.interop.tensors has them."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor."""
        return {name: tensor.shape for name, tensor in self.items()}


def is_in(folder: pathlib.Path) -> bool:
    """Return whether `folder` holds an old Flax checkpoint, whole or in parts."""
    return (folder / NAME).is_file() or (folder / INDEX).is_file()


def read(folder: pathlib.Path) -> Tensors:
    """Return the tensors of the old Flax checkpoint in `folder` as `research.models.rules.from_huggingface` takes them.

    Floating-point numpy arrays under torch's names, in torch's layout and in the file's own precision; views of what
    was read, which is read whole.

    Raises:
        UserError: A file is missing, cut, empty, not msgpack, or holds something other than finite parameters; the
            message names it: fetch it anew, or use another.
    """
    tensors = Tensors()
    for path in _parts(folder):
        tree = _restore(path)
        for name, leaf in flatten(tree).items():
            if not isinstance(leaf, np.ndarray) or not _is_floating(leaf):
                raise UserError(f"{path}: {name} is no array of floating-point numbers: this is not a Flax checkpoint")
            if not _is_finite(leaf):
                raise UserError(f"{path}: {name} holds NaN or infinity: its training diverged, use another file")
        tensors |= to_torch(tree)
    return tensors


def to_torch(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the leaves of an old model's parameter tree under torch's names and in torch's layout, as views.

    Flax's Dense is [in, out] and torch's Linear [out, in]. GPT-2's FlaxConv1D is [out, in] and torch's Conv1D
    [in, out]. So every kernel is transposed, whichever it is.
    """
    tensors = {}
    for path, leaf in flatten(tree).items():
        *modules, last = path.split("/")
        tensors[".".join([*modules, LEAVES.get(last, last)])] = leaf.T if last == "kernel" else leaf
    return tensors


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of the checkpoint: one, or those that its index names."""
    index = folder / INDEX
    if (folder / NAME).is_file() or not index.is_file():
        return [folder / NAME]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not the index of a checkpoint ({first_line(error)}): fetch it anew") from None
    if outside := [name for name in names if not isinstance(name, str) or pathlib.PurePath(name).name != name]:
        raise UserError(f"{index} names {outside[0]!r}, which is no file of its own folder: fetch it anew")
    return [folder / name for name in names]


def _restore(path: pathlib.Path) -> Mapping[str, Any]:
    """Return the tree in one file."""
    from flax.serialization import msgpack_restore

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a folder with the whole checkpoint") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    if not data:
        raise UserError(f"{path} is empty: fetch it anew")
    try:
        tree = msgpack_restore(data)
    except Exception as error:  # of msgpack, flax or numpy, of a dozen types: all say that the file is broken
        raise UserError(f"{path} is not a whole msgpack file ({first_line(error)}): fetch it anew") from None
    if not isinstance(tree, Mapping) or not tree:
        raise UserError(f"{path} holds no parameters: this is not a Flax checkpoint")
    return tree


def _is_floating(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"  # which numpy takes for bytes


def _is_finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # float64 may be beyond float32, which parameters are
        return bool(np.isfinite(array.astype(np.float32)).all())
