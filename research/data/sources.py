"""Where text comes from, as a stream of documents: a hub id, a local file or folder, or the embedded corpus."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from research.data import hub, pydocs
from research.data.cache import fingerprint as digest
from research.data.cache import hash_file
from research.data.files import SUFFIXES, suffix, texts
from research.types import Split, UserError, did_you_mean

FORMAT = 1  # counted up whenever the same source gives other documents, so that cached corpora are built anew
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What the files of each split are called in a local folder."""

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SLICE = re.compile(r"(?P<name>[^\[]*)\[.*\]")


@dataclass(frozen=True)
class Source:
    """Text of one origin, and where its documents begin and end."""

    path: str = "pydocs"
    """A local file or folder, a hub id such as Salesforce/wikitext, or pydocs: the documentation found here."""
    name: str = ""
    """Configuration of a hub id, for example wikitext-2-raw-v1."""
    column: str = "text"
    """The field of JSON lines, CSV, Parquet and hub records that holds the text."""
    boundary: str = "line"
    """What parts documents: line (or record), blank (line), file, or a regular expression for their first lines."""
    weight: float = 1.0
    """Share of a mixture of sources, before its temperature."""
    train: str = "train"
    """Hub split, also sliced: train[:10%]; in a local folder, what the names of its files begin with."""
    validation: str = "validation"
    """Likewise for validation; empty: held out from the training documents."""
    test: str = "test"
    """Likewise for test."""
    holdout: float = 0.05
    """Share of the training documents that is validation where a local source has none of its own."""
    holdout_by: Literal["document", "tail"] = "document"
    """Hold out documents by their hash, or the last share of the characters in order."""
    limit: float = 0.0
    """Millions of characters after which a split is read no further, whole documents; 0: all."""


def documents(source: Source, split: Split) -> Iterator[str]:
    """Return the documents of a split as a stream, in an order that is always the same.

    The source is checked at once and read as it is consumed. A line, a record (of JSON lines, CSV, Parquet, hub) and
    a topic or class of pydocs are documents as they stand; with a boundary of `blank` or a regular expression,
    records are the lines of one text. Documents without a visible character are left out.

    Raises:
        UserError: the source does not exist, cannot be read or has no document; names file, line and field.
    """
    check(source)
    where = kind(source)
    if where == "pydocs":
        found: Iterable[str] = pydocs.documents(split)
    elif where == "hub":
        found = _held_out(source, split, *_hub(source, split))
    else:
        files, part = _files(source, split)
        found = _held_out(source, split, lambda: _read(files, source), part)
    return _stream(source, split, found)


def fingerprint(source: Source, split: Split) -> str:
    """Return a hash of what `documents` would give: file contents, hub revision or package versions, and the fields
    that matter. The same files elsewhere have the same fingerprint.

    Raises:
        UserError: as `documents`, where the source cannot be found.
    """
    check(source)
    where = kind(source)
    fields = [FORMAT, where, split, source.limit]
    if where == "pydocs":
        return digest(fields, pydocs.versions())
    fields += [source.column, source.boundary]
    if where == "hub":
        _, part = _hub(source, split)
        content = hub.revision(source.path, source.name, source.train if part else getattr(source, split))
    else:
        files, part = _files(source, split)
        content = [[suffix(file), hash_file(file)] for file in files]  # the same bytes, read as another kind
    return digest(fields, content, [part, source.holdout, source.holdout_by] if part else [])


def name(source: Source) -> str:
    """Return what a source is called in messages and tables: its path, and a hub id's configuration."""
    return f"{source.path}/{source.name}" if source.name else source.path


def check(source: Source) -> None:
    """Refuse a source that cannot be, before anything is read or fetched.

    Raises:
        UserError: a field is out of range, or there is no such file or folder; names it.
    """
    if not 0 <= source.holdout < 1:
        raise UserError(f"source holdout is {source.holdout}: it must be at least 0 and below 1")
    if not 0 <= source.limit < math.inf:
        raise UserError(f"source limit is {source.limit}: give millions of characters, or 0 for all")
    try:
        re.compile(source.boundary)
    except re.error as error:
        raise UserError(
            f"source boundary {source.boundary!r} is not line, blank, file or a regular expression: {error}"
        ) from None
    kind(source)


def kind(source: Source) -> Literal["pydocs", "hub", "local"]:
    """Return what the path of `source` names; a hub id is told by its form alone, nothing is fetched.

    Raises:
        UserError: it is none of them: no such file or folder.
    """
    path = pathlib.Path(source.path).expanduser()
    if path.exists():
        return "local"
    if source.path == "pydocs":
        return "pydocs"
    inside = path.parent != pathlib.Path(".") and path.parent.is_dir()
    if HUB_ID.fullmatch(source.path) and not suffix(path) and not inside and source.path[0] not in ".~":
        return "hub"
    present = sorted(map(str, path.parent.iterdir())) if path.parent.is_dir() else []
    raise UserError(f"{source.path}: no such file or folder{did_you_mean(str(path), present) or ': check the path'}")


def _hub(source: Source, split: Split) -> tuple[Callable[[], Iterator[str]], Split | None]:
    """Return how to read the documents of a hub split, and which part of them is wanted: None for all."""
    part: Split | None = None
    if not source.validation and split != "test":
        split, part = "train", split
    wanted = getattr(source, split)
    return lambda: _cut(hub.texts(source.path, source.name, wanted, source.column), source.boundary, "\n"), part


def _files(source: Source, split: Split) -> tuple[list[pathlib.Path], Split | None]:
    """Return the files that hold a local split, and which part of their documents is wanted: None for all."""
    path = pathlib.Path(source.path).expanduser()
    if path.is_file():
        if not suffix(path):
            raise UserError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}: rename or convert it")
        splits: dict[str, list[pathlib.Path]] = {"train": [path], "validation": [], "test": []}
    else:
        splits = _sorted_out(path, source)
    if splits[split]:
        apart = bool(splits["validation"]) or split == "test"
        return splits[split], None if apart or not source.holdout else "train"
    if split == "validation" and splits["train"] and source.holdout:
        return splits["train"], "validation"
    remedy = f"name them {NAMES[split][0]}*.txt" + (", or set the source's holdout" if split == "validation" else "")
    raise UserError(f"{path}: no files for the {split} split; {remedy}")


def _sorted_out(folder: pathlib.Path, source: Source) -> dict[str, list[pathlib.Path]]:
    """Return the files of each split by their names; files without a split's name are for training if none has one."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and suffix(path))
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    if not files:
        raise UserError(f"{folder}: no file to read in this folder; known are {', '.join(SUFFIXES)}")
    splits: dict[str, list[pathlib.Path]] = {}
    rest = set(files)
    for split, usual in NAMES.items():
        given = getattr(source, split)
        if SLICE.fullmatch(given):
            raise UserError(f"{folder}: {given} slices a hub split; for files use the source's limit instead")
        names = usual if given == split else (given,) if given else ()
        begins = re.compile(rf"({'|'.join(map(re.escape, names))})(?![a-zA-Z])") if names else re.compile(r"(?!)")
        named = [file for file in files if begins.match(file.parts[0])]
        exact = [file for file in named if file.parts[0].split(".")[0] in names]  # test.txt beside test_2017.txt
        splits[split] = exact or named
        rest -= set(named)
    splits["train"] = splits["train"] or sorted(rest)
    return {split: [folder / file for file in each] for split, each in splits.items()}


def _read(files: list[pathlib.Path], source: Source) -> Iterator[str]:
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty; give one with text, or remove it")
        is_text = suffix(file).startswith(".txt")
        yield from _cut(texts(file, source.column), source.boundary, "" if is_text else "\n", whole=not is_text)


def _cut(lines: Iterator[str], boundary: str, joint: str, whole: bool = True) -> Iterator[str]:
    """Yield the documents that `boundary` makes of lines, which end in a newline where `joint` is empty.

    Args:
        whole: a line is a record, so that a boundary of `file` leaves it as it is.
    """
    if boundary == "line" or (boundary == "file" and whole):
        yield from (line.rstrip("\n") for line in lines)
        return
    starts = re.compile(boundary).search if boundary not in ("blank", "file") else None
    document: list[str] = []
    for line in lines:
        bare = line.rstrip("\n")
        blank = boundary == "blank" and not bare.strip()
        if document and (blank or (starts and starts(bare))):
            yield joint.join(document)
            document = []
        if not blank:
            document.append(bare if joint else line)
    if document:
        yield joint.join(document)


def _held_out(
    source: Source, split: Split, read: Callable[[], Iterator[str]], part: Split | None
) -> Iterator[str]:
    """Yield the documents of `part`, training or validation: all where it is None."""
    if part is None:
        yield from read()
    elif source.holdout_by == "document":
        import xxhash

        bound = source.holdout * 2.0**64
        for document in read():
            hashed = xxhash.xxh3_64_intdigest(document.encode("utf-8", "surrogatepass"))
            if (hashed < bound) == (part == "validation"):
                yield document
    else:
        end = int(sum(map(len, read())) * (1 - source.holdout))
        for document in read():
            kept = min(max(end, 0), len(document))
            end -= len(document)
            yield document[:kept] if part == "train" else document[kept:]


def _stream(source: Source, split: Split, found: Iterable[str]) -> Iterator[str]:
    """Yield the documents with something in them, up to the limit; refuse a split without any."""
    read = 0
    for document in found:
        if not document.strip():
            continue
        yield document
        read += len(document)
        if source.limit and read >= source.limit * 1e6:
            return
    if not read:
        raise UserError(
            f"{source.path}: no documents in the {split} split; check the file, the source's boundary and its holdout"
        )
