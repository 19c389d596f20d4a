"""Public data sets and published tokenizers on this machine: folders under TERCET_DATA, and `tokenizers` beside it."""

import os
import pathlib

from research.data.sources import Source
from research.data.tokenizer import Tokenizer

FOLDER = pathlib.Path(os.environ.get("TERCET_DATA", "$TERCET_DATA"))  # unset, the message of a missing file says so


def source(name: str, **fields) -> Source:
    """Return the data set in the folder `name`, with `fields` replaced."""
    return Source(str(FOLDER / name), **fields)


def tokenizer(name: str) -> Tokenizer:
    """Return the published tokenizer `name`: the folder of that name, or else the hub's."""
    folder = FOLDER.parent / "tokenizers" / name
    return Tokenizer(str(folder) if folder.is_dir() else name)
