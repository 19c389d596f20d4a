"""Lines and records of local files; whatever is wrong with a file is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from research.data.features import named
from research.types import UserError

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LONGEST_FIELD = 2**26
"""Characters of a field of CSV: more than any document has (the csv module's 131,072 are not), and what a quote that is
never closed may at most fill memory with."""

Fields = dict[str, Any]
Line = tuple[int, str, UserError | None]
"""A line's number from 1, the line with its newline, and what is wrong with it."""
Read = tuple[int, Fields | UserError]
"""The line (or row) from 1 that a record begins in, and the record: or what is wrong with it, not raised, so that a
reader may go on."""


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


def _lines(path: pathlib.Path) -> Iterator[Line]:
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
    csv.field_size_limit(LONGEST_FIELD)
    source, held, again = _lines(path), deque[Line](), deque[Line]()  # held: of the record that is being read

    def lines() -> Iterator[str]:
        while line := again.popleft() if again else next(source, None):
            held.append(line)
            yield line[1]

    def reader(header: Sequence[str] | None = None) -> csv.DictReader:
        return csv.DictReader(lines(), header, restval=ENDED, strict=True)

    rows = reader()
    try:
        header = rows.fieldnames
    except csv.Error as error:
        raise UserError(f"{path}:1: not CSV ({error}): mend the header") from None
    for _, _, wrong in held:
        if wrong:
            raise wrong
    while True:
        held.clear()
        broken: csv.Error | None = None
        try:
            record: Fields | None = next(rows, None)
        except csv.Error as error:
            record, broken = {}, error
        while held and not held[0][1].strip("\r\n"):  # between records
            held.popleft()
        if record is None:
            return
        number, _, wrong = held[0]
        if broken:
            # A quote that is not closed has taken in lines up to the next one, the longest field or the end, which
            # memory then holds: only the first of them is lost.
            again.extendleft(list(held)[:0:-1])
            rows = reader(header)
            yield number, wrong or UserError(f"{path}:{number}: not CSV ({broken}): mend its quotes or remove the line")
        else:
            yield number, next((each for _, _, each in held if each), record)


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

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs of a broken file, the message below says
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
    kind = type(value).__name__
    return "null" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
