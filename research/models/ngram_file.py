"""N-gram models in files: the tables and what they were made from, in one uncompressed .npz without pickle."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from research.models.ngram import Level, NgramModel
from research.types import UserError

FORMAT = "tercet-ngram-1"
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, zlib.error)
"""What numpy and zipfile raise at bytes that are not what they expect."""


def save(model: NgramModel, path: str | os.PathLike) -> None:
    """Write the model to `path`, whole or not at all: 16 bytes an n-gram, 12 for those of the highest order."""
    notes = {"format": FORMAT, "order": model.order, "eos": model.eos, "facts": model.facts}
    notes |= {"cache": model.cache, "cache_sizes": model.cache_sizes}
    arrays = {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}
    for n, level in enumerate(model.levels, 1):
        arrays |= {f"{name}_{n}": array for name, array in level._asdict().items()}
    with whole(pathlib.Path(path)) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **arrays)


def load(path: str | os.PathLike) -> NgramModel:
    """Return the model that `save` wrote to `path`.

    Raises:
        UserError: There is no such file, it is damaged, or it is something else.
    """
    try:
        with np.load(path) as file:  # which checks the sums of what it reads
            notes = json.loads(bytes(file["notes"]))
            if notes["format"] != FORMAT:
                raise UserError(f"{path}: its format is {notes['format']!r}, not {FORMAT!r}: estimate it anew")
            levels = [Level(*(file[f"{name}_{n}"] for name in Level._fields)) for n in range(1, notes["order"] + 1)]
        return NgramModel(tuple(levels), notes["eos"], notes["cache"], tuple(notes["cache_sizes"]), notes["facts"])
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such n-gram model; check the path") from None
    except (*DAMAGE, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an n-gram model, or a damaged one ({error}): estimate it anew") from None


@contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield another path beside `path` to write to, which takes its place when all is written.

    Raises:
        UserError: The folder cannot be written to, or is full.
    """
    unfinished = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): choose another folder") from None
    finally:
        unfinished.unlink(missing_ok=True)
