"""Records of the Hugging Face hub; whatever goes wrong is said in one line, and without a network within seconds."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from research.data.features import named
from research.data.files import first_line, text_of
from research.types import UserError

if TYPE_CHECKING:
    import datasets

UNKNOWN = ("Unknown split", "Bad split")  # how datasets begins to say that there is no such split
PATIENCE = 5.0  # seconds until the hub counts as out of reach; its own client tries six times in 24 seconds


class NoSplit(UserError):
    """A data set that is there has no split of that name."""


def texts(path: str, name: str, split: str, column: str) -> Iterator[str]:
    """Yield the `column` of the records of a split, which may be sliced (`train[:10%]`).

    Raises:
        UserError: there is no such data set, configuration, split or column, or the hub cannot be reached.
    """
    found = load(path, name, split)
    if column not in found.column_names:
        present = ", ".join(map(repr, found.column_names))
        raise UserError(f"{path}: no column {column!r}, only {present}: set the source's column")
    for number, record in enumerate(found.select_columns([column])):
        yield from text_of(record, column, place(path, split, number))


def records(path: str, name: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 0, record) of a split, which may be sliced; class labels are spelled out.

    Raises:
        UserError: as `load`.
    """
    found = load(path, name, split)
    for number, record in enumerate(found):
        yield number, named(found.features, record)


def place(path: str, split: str, number: int) -> str:
    """Return how messages name a record."""
    return f"{path}: {split} record {number}"


def revision(path: str, name: str, split: str) -> list:
    """Return JSON values that change with the records: their files' addresses (which hold the commit), or a hash."""
    records = load(path, name, split)
    files = sorted(records.info.download_checksums or {})
    return [path, name, str(records.split), records.num_rows, files or records._fingerprint]


@functools.cache
def lacks(path: str, name: str, split: str) -> bool:
    """Return whether a data set has no split of that name; asked once a process.

    Raises:
        UserError: as `load`, where something else is wrong.
    """
    try:
        load(path, name, split)
    except NoSplit:
        return True
    return False


def load(path: str, name: str, split: str) -> datasets.Dataset:
    """Return the records of a split, downloaded or from the cache of `datasets`; code from the hub is never run.

    Raises:
        NoSplit: there is the data set, but no such split.
        UserError: there is no such data set or configuration, or the hub cannot be reached.
    """
    import datasets

    with _offline_if_unreachable(path) as reachable:
        try:
            return datasets.load_dataset(path, name or None, split=split)
        except Exception as error:  # a dozen kinds, of four libraries
            said = first_line(error)
            kind = NoSplit if said.startswith(UNKNOWN) else UserError
            if not reachable and kind is UserError:
                said = "not a file or folder here, not in the cache of datasets, and the hub cannot be reached"
                remedy = "fetch the files elsewhere and give their folder as the source's path"
            elif "split" in said.lower():
                remedy = "set the source's train, validation or test; an empty validation is held out from train"
            elif "config" in said.lower():
                remedy = "set the source's name"
            else:
                remedy = "check the id, or give a local file or folder"
            raise kind(f"{path} ({split}): {said.rstrip('.')}: {remedy}") from error


@contextlib.contextmanager
def _offline_if_unreachable(path: str) -> Iterator[bool]:
    """Keep `datasets` to its cache while the hub cannot be reached; give whether it can."""
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    reachable = not was_offline and answers(f"{datasets.config.HF_ENDPOINT}/api/datasets/{path}")
    datasets.config.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def answers(address: str) -> bool:
    """Return whether anything answers at `address` within PATIENCE seconds; the hub's client would try for a minute."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:  # an answer, if not a welcome one
        return True
    except (OSError, ValueError):
        return False
    return True
