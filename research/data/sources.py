"""Where text comes from, as a stream of documents: a hub id, a local file or folder, or the embedded corpus."""

from __future__ import annotations

import functools
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    """Likewise for validation; empty, or of a hub id without a split called so: held out from the training documents."""
    test: str = "test"
    """Likewise for test."""
    holdout: float = 0.05
    """Share of the training documents that is validation where a source has none of its own. Documents or records that
    are equal stay together; records that differ, if only in an id, are different ones."""
    holdout_test: float = 0.0
    """Likewise of the test split; 0: there is no test split but a source's own."""
    holdout_by: Literal["document", "tail"] = "document"
    """Hold out documents by their hash, or the last share of the characters in order."""
    holdout_seed: int = 0
    """Names the documents that are held out, or shared, by their hash: another seed, another split."""
    share: float = 1.0
    """Share of the training documents or records that is read, by their hash; a smaller one is part of a larger one."""
    limit: float = 0.0
    """Millions of characters after which a split is read no further, whole documents; 0: all."""


class Part(NamedTuple):
    """What is wanted of the training documents where they are also other splits'."""

    split: Split
    validation: float  # share of them that is the validation split
    test: float


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
        wanted, part = hub_split(source, split)
        found = _held_out(source, lambda: _hub(source, wanted), part)
    else:
        files, part = local_files(source, split)
        found = _held_out(source, lambda: _read(files, source), part)
    return _stream(source, split, found)


def fingerprint(source: Source, split: Split) -> str:
    """Return a hash of what `documents` would give: file contents, hub revision or package versions, and the fields
    that matter. The same files elsewhere have the same fingerprint.

    Raises:
        UserError: as `documents`, where the source cannot be found.
    """
    check(source)
    where = kind(source)
    fields = [FORMAT, where, split, source.limit, *part_read(source, split)]
    if where == "pydocs":
        return digest(fields, pydocs.versions())
    return digest([*fields, source.column, source.boundary], *content(source, split))


def content(source: Source, split: Split) -> tuple[list, list]:
    """Return JSON values that change with what files or records hold, and with what is held out of them."""
    if kind(source) == "hub":
        wanted, part = hub_split(source, split)
        found = hub.revision(source.path, source.name, wanted)
    else:
        files, part = local_files(source, split)
        found = [[suffix(file), hash_file(file)] for file in files]  # the same bytes, read as another kind
    if part is None:
        return found, []
    more = [part.test, source.holdout_seed] if part.test or source.holdout_seed else []
    return found, [part.split, part.validation, source.holdout_by, *more]


def name(source: Source) -> str:
    """Return what a source is called in messages and tables: its path, and a hub id's configuration."""
    return f"{source.path}/{source.name}" if source.name else source.path


def check(source: Source) -> None:
    """Refuse a source that cannot be, before anything is read or fetched.

    Raises:
        UserError: a field is out of range, or there is no such file or folder; names it.
    """
    for field in ("holdout", "holdout_test"):
        if not 0 <= getattr(source, field) < 1:
            raise UserError(f"source {field} is {getattr(source, field)}: it must be at least 0 and below 1")
    if source.holdout + source.holdout_test >= 1:
        raise UserError(
            f"source holdout {source.holdout} and holdout_test {source.holdout_test} leave nothing to train on: "
            "lower them"
        )
    if not 0 <= source.holdout_seed < 2**64:
        raise UserError(f"source holdout_seed is {source.holdout_seed}: give a whole number from 0")
    if not 0 < source.share <= 1:
        raise UserError(f"source share is {source.share}: it must be above 0 and at most 1")
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


def _hub(source: Source, wanted: str) -> Iterator[str]:
    return _cut(hub.texts(source.path, source.name, wanted, source.column), source.boundary, "\n")


def hub_split(source: Source, split: Split) -> tuple[str, Part | None]:
    """Return the hub split that holds `split`, and which part of it is wanted: None for all."""
    without = {
        "validation": not source.validation or _unsaid(source, "validation", source.holdout),
        "test": not source.test or _unsaid(source, "test", source.holdout_test),
    }
    none = Part(
        split, source.holdout if without["validation"] else 0.0, source.holdout_test if without["test"] else 0.0
    )
    lacking = {"validation"} if without["validation"] else set()
    lacking |= {"test"} if none.test else set()
    if lacking and (split == "train" or split in lacking):
        return source.train, none
    return getattr(source, split), None


def _unsaid(source: Source, split: Split, share: float) -> bool:
    """Return whether a hub id has no `split`, nobody said what it is called there, and a share of train can be it."""
    if not share or getattr(source, split) != split or not hub.lacks(source.path, source.name, split):
        return False
    _say(f"{name(source)} has no {split} split: {share:.1%} of {source.train} is held out for it (holdout)")
    return True


@functools.cache
def _say(message: str) -> None:
    """Print a message on stderr, once a process."""
    print(message, file=sys.stderr)


def local_files(source: Source, split: Split) -> tuple[list[pathlib.Path], Part | None]:
    """Return the files that hold a local split, and which part of their documents is wanted: None for all."""
    path = pathlib.Path(source.path).expanduser()
    if path.is_file():
        if not suffix(path):
            raise UserError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}: rename or convert it")
        splits: dict[str, list[pathlib.Path]] = {"train": [path], "validation": [], "test": []}
    else:
        splits = _sorted_out(path, source)
    part = Part(
        split,
        0.0 if splits["validation"] else source.holdout,
        0.0 if splits["test"] else source.holdout_test,
    )
    if splits[split]:
        return splits[split], part if split == "train" and (part.validation or part.test) else None
    if splits["train"] and split != "train" and getattr(part, split):
        return splits["train"], part
    field = "holdout" if split == "validation" else "holdout_test"
    remedy = f"name them {NAMES[split][0]}*.txt" + ("" if split == "train" else f", or set the source's {field}")
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


def _held_out(source: Source, read: Callable[[], Iterator[str]], part: Part | None) -> Iterator[str]:
    """Yield the documents of `part`: all where it is None."""
    if part is None:
        yield from read()
    elif source.holdout_by == "document":
        for document in read():
            if split_of(document, part, source.holdout_seed) == part.split:
                yield document
    else:
        start, end = tail(sum(map(len, read())), part)
        for document in read():
            yield document[max(start, 0) : max(end, 0)]
            start, end = start - len(document), end - len(document)


def part_read(source: Source, split: Split) -> list:
    """Return JSON values that change with the share of a split that is read; none where it is all of it."""
    return [source.share, source.holdout_seed] if split == "train" and source.share < 1 else []


def shared(source: Source, split: Split, document: str) -> bool:
    """Return whether a document is in the share of a split that is read."""
    import xxhash

    if not part_read(source, split):
        return True
    hashed = xxhash.xxh3_64_intdigest(b"share" + document.encode("utf-8", "surrogatepass"), source.holdout_seed)
    return hashed < source.share * 2.0**64


def split_of(document: str, part: Part, seed: int) -> Split:
    """Return the split that a document's hash puts it in, the same for all documents that are equal."""
    import xxhash

    share = xxhash.xxh3_64_intdigest(document.encode("utf-8", "surrogatepass"), seed)
    if share < part.validation * 2.0**64:
        return "validation"
    return "test" if share < (part.validation + part.test) * 2.0**64 else "train"


def tail(total: int, part: Part) -> tuple[int, int]:
    """Return where a part of `total` characters or records begins and ends: the test split is their very last."""
    bounds = {"validation": int(total * (1 - part.validation - part.test)), "test": int(total * (1 - part.test))}
    match part.split:
        case "train":
            return 0, bounds["validation"]
        case "validation":
            return bounds["validation"], bounds["test"]
        case "test":
            return bounds["test"], total


def _stream(source: Source, split: Split, found: Iterable[str]) -> Iterator[str]:
    """Yield the documents with something in them, up to the limit; refuse a split without any."""
    read = 0
    for document in found:
        if not document.strip() or not shared(source, split, document):
            continue
        yield document
        read += len(document)
        if source.limit and read >= source.limit * 1e6:
            return
    if not read:
        raise UserError(
            f"{source.path}: no documents in the {split} split; check the file, the source's boundary and its holdout"
        )
