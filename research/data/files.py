"""Lines and records of local files; whatever is wrong with a file is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from research.data.features import named
from research.types import UserError

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Fields = dict[str, Any]
Read = tuple[int, Fields | UserError]
"""A record's line (or row) from 1, and the record: or what is wrong with it, not raised, so that a reader may go on."""


def suffix(path: pathlib.Path) -> str:
    """Return the known suffix of a file's name, or an empty string."""
    return next((known for known in SUFFIXES if path.name.lower().endswith(known)), "")


def texts(path: pathlib.Path, column: str) -> Iterator[str]:
    """Yield the lines of a text file (with their newlines), or the `column` of the records of any other.

    Raises:
        UserError: the file cannot be opened, is not UTF-8, has a broken line or lacks the column.
    """
    if suffix(path).startswith(".txt"):
        for _, line, wrong in _lines(path):
            if wrong:
                raise wrong
            yield line
    else:
        before = place(path)
        for number, record in READERS[suffix(path).removesuffix(".gz")](path):
            if isinstance(record, UserError):
                raise record
            where = f"{before}{number}"
            if record.get(column, "") is ENDED:
                raise UserError(f"{where}: the line ends before column {column!r}: mend or remove the line")
            yield from text_of(record, column, where)


def records(path: pathlib.Path) -> Iterator[Read]:
    """Yield the records of a file of any kind as they are read; a line of text is the record {"text": line}.

    A line that is broken or not UTF-8, and one of CSV with more or fewer fields than the header, is given as the
    UserError that says so.

    Raises:
        UserError: the file cannot be opened, or is not a whole file of its kind.
    """
    kind, before = suffix(path).removesuffix(".gz"), place(path)
    for number, record in READERS[kind](path):
        yield number, _whole(record, f"{before}{number}") if kind == ".csv" else record


def place(path: pathlib.Path) -> str:
    """Return what comes before the number where messages name a line of a file, or a row of one without lines."""
    return f"{path}: row " if suffix(path) == ".parquet" else f"{path}:"


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str, UserError | None]]:
    """Yield (line number from 1, line with its newline, what is wrong with it)."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(BYTE_ORDER_MARK)
                wrong = None
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    line = raw.decode("utf-8", "replace")
                    wrong = UserError(
                        f"{path}:{number}: not UTF-8 (byte {error.object[error.start]:#04x}): "
                        "convert the file, for example with iconv -f latin1 -t utf-8"
                    )
                yield number, line[:-2] + "\n" if line.endswith("\r\n") else line, wrong
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}): fetch it anew") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from error


def _text(path: pathlib.Path) -> Iterator[Read]:
    for number, line, wrong in _lines(path):
        yield number, wrong or {"text": line.rstrip("\n")}


def _json_lines(path: pathlib.Path) -> Iterator[Read]:
    for number, line, wrong in _lines(path):
        if wrong:
            yield number, wrong
        elif line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, UserError(f"{path}:{number}: not a JSON object ({error}): mend or remove the line")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                said = f"{path}:{number}: not a JSON object but {type_of(record)}: write one object a line"
                yield number, UserError(said)


ENDED: Any = object()
"""Stands in records of CSV for the columns that a line ends before."""


def _csv(path: pathlib.Path) -> Iterator[Read]:
    csv.field_size_limit(2**31 - 1)  # 131,072 characters by default, which a document may well have
    met: list[UserError] = []  # in the lines of the record that is being read

    def lines() -> Iterator[str]:
        for _, line, wrong in _lines(path):
            met.extend([wrong] if wrong else [])
            yield line

    reader = csv.DictReader(lines(), restval=ENDED)
    try:
        reader.fieldnames  # noqa: B018, reads the header
    except csv.Error as error:
        raise UserError(f"{path}:1: not CSV ({error}): mend the header") from None
    if met:
        raise met[0]
    while True:
        try:
            record: Fields | UserError | None = next(reader, None)
        except csv.Error as error:
            record = UserError(f"{path}:{reader.line_num}: not CSV ({error}): mend or remove the line")
        if record is None:
            return
        yield reader.line_num, met[0] if met else record
        met.clear()


def _whole(record: Fields | UserError, where: str) -> Fields | UserError:
    """Return the record of a line of CSV, or what is wrong where it has not as many fields as the header."""
    if isinstance(record, UserError):
        return record
    missing = next((column for column, value in record.items() if value is ENDED), None)
    if missing is not None:
        return UserError(f"{where}: the line ends before column {missing!r}: mend or remove the line")
    more = record.get(None)  # type: ignore[call-overload]
    if more:
        header = len(record) - 1
        said = f"{where}: {len(more)} more than the {header} fields of the header: quote fields that hold a comma"
        return UserError(said)
    return record


def _parquet(path: pathlib.Path) -> Iterator[Read]:
    import datasets

    try:
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, record in enumerate(rows, 1):
            yield number, named(rows.features, record)
    except Exception as error:  # of pyarrow, fsspec or datasets: all say that the file is broken
        raise UserError(f"{path}: not a whole Parquet file ({first_line(error)}): write or fetch it anew") from error


READERS: dict[str, Callable[[pathlib.Path], Iterable[Read]]] = {
    ".txt": _text,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}


def text_of(record: Fields, column: str, where: str) -> Iterator[str]:
    """Yield the record's text, or nothing where it is null.

    Raises:
        UserError: the record has no such column, or it holds something else than text.
    """
    if column not in record:
        raise UserError(f"{where}: no column {column!r}, only {', '.join(map(repr, record))}: set the source's column")
    text = record[column]
    if text is None:
        return
    if not isinstance(text, str):
        raise UserError(f"{where}: column {column!r} holds {type_of(text)}, not text: set the source's column")
    yield text


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def type_of(value: object) -> str:
    """Return how messages name the type of a value: a str, a list, null."""
    return "null" if value is None else f"a {type(value).__name__}"
