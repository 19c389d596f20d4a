"""Records of a source, a text and its label or a source and its target, as a stream that knows where each came from."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from research.data import files, hub, pydocs
from research.data.cache import fingerprint as digest
from research.data.sources import Part, Source, check, content, hub_split, kind, local_files, part_read, shared, split_of, tail
from research.types import Split, UserError

FORMAT = 1  # counted up whenever the same source gives other records, so that cached tables are built anew


class Row(NamedTuple):
    """A record and where it was read, or what is wrong there."""

    place: str  # file:line, or "id: split record 7"
    number: int  # line of a file or row of a Parquet file from 1, record of the hub from 0
    fields: dict[str, Any]  # of JSON values; empty where something is wrong
    error: str = ""  # one line, with the place


def records(source: Source, split: Split) -> Iterator[Row]:
    """Return the records of a split as a stream, in an order that is always the same; the source is checked at once.

    What is held out is told by a hash of the whole record (or by order: `holdout_by`), so that equal records are never
    in two splits.

    Raises:
        UserError: the source does not exist or cannot be read, a record is broken, or there is none; names file, line.
    """
    check(source)
    part: Part | None = None
    read: Callable[[], Iterable[Row]]
    match kind(source):
        case "pydocs":
            read = lambda: (  # noqa: E731
                Row(hub.place("pydocs", split, number), number, fields)
                for number, fields in enumerate(pydocs.records(split))
            )
        case "hub":
            wanted, part = hub_split(source, split)
            read = lambda: (  # noqa: E731
                Row(hub.place(source.path, wanted, number), number, fields)
                for number, fields in hub.records(source.path, source.name, wanted)
            )
        case "local":
            paths, part = local_files(source, split)
            read = lambda: (row for path in paths for row in rows_of_file(path))  # noqa: E731
    return _limited(source, split, _held_out(source, lambda: map(_sound, read()), part))


def rows_of_file(path: pathlib.Path) -> Iterator[Row]:
    """Yield the records of a file of any kind; a line of text is the record {"text": line}.

    Broken lines are rows with an `error`, so that a long reading goes on past them, and nothing is kept in memory.

    Raises:
        UserError: the file cannot be opened, is of no known kind or not a whole one.
    """
    if not files.suffix(path):
        raise UserError(f"{path}: unknown kind of file; known are {', '.join(files.SUFFIXES)}: rename or convert it")
    before = files.place(path)
    for number, found in files.records(path):
        where = f"{before}{number}"
        yield Row(where, number, {}, str(found)) if isinstance(found, UserError) else Row(where, number, found)


def fingerprint(source: Source, split: Split) -> str:
    """Return a hash of what `records` would give; the same files elsewhere have the same fingerprint.

    Raises:
        UserError: as `records`, where the source cannot be found.
    """
    check(source)
    found = pydocs.versions() if kind(source) == "pydocs" else content(source, split)
    return digest("records", FORMAT, kind(source), split, source.limit, found, *part_read(source, split))


def _sound(row: Row) -> Row:
    if row.error:
        raise UserError(row.error)
    return row


def _held_out(source: Source, read: Callable[[], Iterable[Row]], part: Part | None) -> Iterator[Row]:
    """Yield the rows of `part`: all where it is None."""
    if part is None:
        yield from read()
    elif source.holdout_by == "document":
        for row in read():
            if split_of(_key(row.fields), part, source.holdout_seed) == part.split:
                yield row
    else:
        start, end = tail(sum(1 for _ in read()), part)
        for number, row in enumerate(read()):
            if start <= number < end:
                yield row


def _key(fields: dict[str, Any]) -> str:
    """Return the same text for equal records, whatever the order of their columns."""
    return json.dumps(fields, sort_keys=True, default=str)


def _limited(source: Source, split: Split, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows up to the limit, counted in characters of their values; refuse a split without any."""
    read = number = 0
    for number, row in enumerate((row for row in rows if shared(source, split, _key(row.fields))), 1):
        yield row
        if source.limit:
            read += _characters(row.fields)
            if read >= source.limit * 1e6:
                return
    if not number:
        raise UserError(f"{source.path}: no records in the {split} split; check the file and the source's holdout")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
