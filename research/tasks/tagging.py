"""Tagging: records to rows of words with their tags, and a model's answers to the tags of documents."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from research.data.records import Row
from research.objectives.tagging import Tagging
from research.tasks import columns
from research.tasks.classification import TEXTS, label_id
from research.tasks.coder import Coder, Ids
from research.tasks.items import Create, Items, lay
from research.tasks.rows import Example, Table
from research.types import Structure, UserError, Vocabulary

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "pos_tags")
PREFIXES = {"bio": "BI", "iobes": "BIES"}
PREFIXED = re.compile(r"([A-Z])-(.+)")  # NP-SBJ and -LRB- are names of their own
SECOND = ()  # streams along a row's second dimension
KEEPS_EMPTY = False  # a document without words has nothing to score


def named_columns(objective: Tagging, row: Row) -> Tagging:
    """Return the objective with its columns filled in from those of a record.

    Raises:
        UserError: the record has no column of a known name for one; names those that it has.
    """
    words = objective.words or columns.guess(row, "words", WORDS, but=[objective.tags])
    tags = objective.tags or columns.guess(row, "tags", TAGS, but=[words])
    return dataclasses.replace(objective, words=words, tags=tags)


def renamed(objective: Tagging, row: Row, labelled: bool = True) -> Tagging:
    """Return the objective with those columns guessed anew that a record of other data than its own has not.

    It stays as it is where no other column is known: reading then says which one is missing.
    """
    return columns.renamed(named_columns, objective, row, ["words", *["tags"] * labelled])


def example(objective: Tagging, row: Row, labelled: bool = True) -> Example:
    """Return {"place", "words", "tags"} of a record; tags are None where they are null, or hidden in every word.

    A text in a column of words or tags is split at white space, and ids of objective.labels stand for them. Without
    labels columns that the record has not are guessed anew, and it may have text instead of words: that is split at
    white space and around punctuation, as BERT's tokenizer does, and "text" and "offsets" (where each word begins and
    ends in it, in characters) are kept.

    Raises:
        UserError: a column is missing or holds no list, there are more or fewer tags than words, some tags are hidden, or
            a tag's prefix is none of objective.scheme.
    """
    found: Example = {"place": row.place}
    objective = objective if labelled else renamed(objective, row, labelled)
    column = next((name for name in TEXTS if columns.has(row, name)), "text")
    if not labelled and not _has_words(objective, row, column):
        text = columns.text(row, column, "words")
        pieces = split(text)
        return found | {"text": text, "words": [word for word, _ in pieces], "offsets": [list(at) for _, at in pieces]}
    found["words"] = columns.strings(row, objective.words, "words", spaced=True, kind="word")
    if labelled:
        tags = found["tags"] = columns.told(row, objective.tags, "tags", objective.labels, spaced=True)
        if tags is not None and len(tags) != len(found["words"]):
            raise UserError(
                f"{row.place}: {len(found['words'])} words in column {objective.words!r}, but {len(tags)} tags in "
                f"{objective.tags!r}: mend or remove the record"
            )
        for tag in set(found["tags"] or ()):
            _check(tag, objective.scheme, row)
    return found


def _has_words(objective: Tagging, row: Row, text: str) -> bool:
    """Return whether a record has words: a list, or a text where it has no other column of `text`."""
    if not columns.has(row, objective.words):
        return False
    found = columns.value(row, objective.words, "words")
    return isinstance(found, list) or not columns.has(row, text) or objective.words == text


def split(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Return the words of a text, punctuation apart, and where each begins and ends in it, in characters."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return BertPreTokenizer().pre_tokenize_str(text.encode("utf-8", "replace").decode())


@functools.lru_cache(maxsize=4096)
def _prefix(tag: str) -> tuple[str, str]:
    """Return the prefix and the type of an entity's tag; ("", tag) of others."""
    found = PREFIXED.fullmatch(tag)
    return (found[1], found[2]) if found else ("", tag)


def _check(tag: str, scheme: str, row: Row) -> None:
    prefix, _ = _prefix(tag)
    if prefix and prefix not in PREFIXES[scheme]:
        remedy = "set objective.scheme to iobes" if prefix in PREFIXES["iobes"] else "rename its prefix"
        raise UserError(f"{row.place}: tag {tag!r} begins with none of the prefixes of scheme {scheme}: {remedy}")


def has_labels(objective: Tagging) -> bool:
    """Return whether what is told has names."""
    return True


def blank(objective: Tagging) -> Example:
    """Return an example with as little in it as can be read."""
    return {"place": "", "words": ["."]}


def untold(example: Example) -> bool:
    """Return whether an example has no tags."""
    return example["tags"] is None


def empty(example: Example) -> bool:
    """Return whether there is nothing to read."""
    return not example["words"]


def texts(example: Example) -> list[str]:
    """Return what a tokenizer is trained on."""
    return [" ".join(example["words"])]


def names(objective: Tagging, example: Example) -> list[str]:
    """Return the tags that an example has."""
    return example["tags"] or []


def ordered(found: Iterable[str]) -> tuple[str, ...]:
    """Return tags in the order of their ids: O, which most words have, is the first."""
    kinds = set(found)
    return (("O",) if "O" in kinds else ()) + columns.in_order(kinds - {"O"})


def encode(
    objective: Tagging,
    coder: Coder,
    length: int,
    structure: Structure,
    examples: Sequence[tuple[int, Example]],
    items: Items,
) -> Counter[str]:
    """Add the windows of examples, with their numbers, to `items`; return counts of `cut` words (longer than a row), of
    documents read in several windows, and of entities that begin with I-, which are read as conlleval reads them.

    The first token of a word has its tag. Where all are scored, later tokens of a word tagged B-X have I-X, if there
    is such a label, and those of any other word its own tag.
    """
    before, _, after = coder.single
    room = length - len(before) - len(after)
    if room < 1:
        raise UserError(f"data.length {length} leaves no room beside the special tokens: raise it")
    counts = Counter[str]()
    for (number, each), words in zip(examples, coder.words([each["words"] for _, each in examples]), strict=True):
        counts["cut"] += sum(len(ids) > room for ids in words)
        counts["begun_inside"] += _begun_inside(each.get("tags") or ())
        words = [ids[:room] for ids in words]
        first, later = _targets(objective, each, len(words))
        sizes = [len(ids) for ids in words]
        windows = cut(sizes, room, objective.overlap)
        counts["split"] += len(windows) > 1
        chosen = owners(sizes, windows)
        for i, (start, end) in enumerate(windows):
            tokens, labels, scored, word = list(before), [0] * len(before), [0] * len(before), [-1] * len(before)
            for w in range(start, end):
                more, own = sizes[w] - 1, chosen[w] == i
                tokens += words[w]
                labels += [first[w]] + [later[w]] * more
                scored += [int(own)] + [int(own and objective.scored == "all")] * more
                word += [w if own else -1] + [-1] * more
            end_of = [0] * len(after)
            streams: dict[str, Ids] = {"tokens": tokens + after, "labels": labels + end_of, "weights": scored + end_of}
            streams["word"] = word + [-1] * len(after)
            streams["example"] = [number if w >= 0 else -1 for w in streams["word"]]
            items.add(number, streams, {})
    return counts


def _targets(objective: Tagging, example: Example, count: int) -> tuple[list[int], list[int]]:
    """Return the ids of the tags of each word's first token, and of its others."""
    tags = example.get("tags")
    if tags is None:
        return [0] * count, [0] * count
    ids = {tag: label_id(objective.labels, tag, example) for tag in set(tags)}
    others = dict(ids)
    for tag in ids:
        prefix, kind = _prefix(tag)
        if prefix == "B" and f"I-{kind}" in objective.labels:
            others[tag] = objective.labels.index(f"I-{kind}")
    return [ids[tag] for tag in tags], [others[tag] for tag in tags]


def _begun_inside(tags: Sequence[str]) -> int:
    """Return how many tags I-X follow neither B-X nor I-X."""
    pairs = zip(map(_prefix, ["O", *tags]), map(_prefix, tags), strict=False)
    return sum(now[0] == "I" and (was[0] not in ("B", "I") or was[1] != now[1]) for was, now in pairs)


def cut(sizes: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Return the windows of a document, (first word, word after the last) each, that hold `room` tokens at most.

    Each begins with as many of the last words of the one before it as `overlap` tokens hold, and goes on as far as it
    can: so none is contained in another, and every word is in one.

    Args:
        sizes: Tokens of each word, from 1 to `room`.
    """
    windows, start, end, held = [], 0, 0, 0
    while end < len(sizes):
        while end < len(sizes) and held + sizes[end] <= room:
            held += sizes[end]
            end += 1
        windows.append((start, end))
        if end == len(sizes):
            break
        while held > overlap or held + sizes[end] > room:
            held -= sizes[start]
            start += 1
    return windows


def owners(sizes: Sequence[int], windows: Sequence[tuple[int, int]]) -> list[int]:
    """Return the window in which each word is scored: the one where it is farthest from the nearer edge that the
    document was cut at, in tokens; of equals the earlier."""
    chosen, best = [0] * len(sizes), [-1.0] * len(sizes)
    for i, (start, end) in enumerate(windows):
        total, done = sum(sizes[start:end]), 0
        for w in range(start, end):
            left = float("inf") if start == 0 else done
            done += sizes[w]
            right = float("inf") if end == len(sizes) else total - done
            if min(left, right) > best[w]:
                chosen[w], best[w] = i, min(left, right)
    return chosen


def fill(known: Vocabulary) -> dict[str, int]:
    """Return what each array has where there is nothing."""
    return {"tokens": known.pad or 0, "example": -1, "word": -1}


def arrays(
    objective: Tagging, items: Items, length: int, known: Vocabulary, create: Create
) -> dict[str, np.ndarray]:
    """Return the arrays of the rows that hold `items`, as the objective reads them, and `example` and `word`
    int32[R, L]: whose tag each token decides, -1 where none's."""
    placed = items.pack(length, 0, objective.per_row)
    return lay(items, placed, length, 0, objective.per_row, fill(known), create)


class Tags:
    """The tags of documents, put together from rows in any order and batches of any size."""

    def __init__(self, objective: Tagging, table: Table) -> None:
        self.objective, self.table = objective, table
        self._ids: dict[int, dict[int, int]] = {}

    def add(self, index: np.ndarray, logits: np.ndarray) -> None:
        """Take what a model said of the rows numbered `index`, int64[B]: logits float32[B, L, N]; of a row that is met
        twice the first counts."""
        found = self.table.pick(index, ["example", "word"])
        decides = found["word"] >= 0
        best = np.argmax(np.asarray(logits)[decides], axis=-1)
        for number, word, tag in zip(found["example"][decides], found["word"][decides], best, strict=True):
            self._ids.setdefault(int(number), {}).setdefault(int(word), int(tag))

    def found(self) -> dict[int, list[str]]:
        """Return {example: the tag of each word}, of the examples with words that have all been met."""
        labels, result = self.objective.labels, {}
        for number, tags in sorted(self._ids.items()):
            count = len(self.table.examples[number]["words"])
            if len(tags) == count:
                result[number] = [labels[tags[word]] for word in range(count)]
        return result
