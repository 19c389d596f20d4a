"""Tags of words: the entities that they mark, and their scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from research.report.intervals import interval, resampled_sums
from research.tasks.counts import Counts, by_label
from research.types import UserError

Scheme = Literal["bio", "iobes"]
Span = tuple[str, int, int]

TAG = re.compile(r"(O)|([BIES])(?:-(.*))?", re.DOTALL)


def spans(tags: Sequence[str], scheme: Scheme = "bio") -> list[Span]:
    """Return the entities that `tags` mark, as (type, first word, word behind the last).

    "bio" is read leniently, as conlleval does (Tjong Kim Sang and De Meulder, 2003; seqeval's default mode): an I- that
    continues nothing of its own type begins an entity. "iobes" is read strictly (seqeval's mode="strict"): an entity is
    S-X, or B-X, any number of I-X, and E-X; other tags mark nothing. A tag without a type has the type "_".

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    >>> spans(["B-PER", "E-PER", "O", "I-LOC"], "iobes")
    [('PER', 0, 2)]

    Raises:
        UserError: A tag is neither O nor begins with B-, I-, E- or S-.
    """
    found, start, before, type_before = [], 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, type_ = _parts(tag)
        if before in "BI" and prefix in "IE" and type_ == type_before:
            before = prefix
            continue
        if before != "O" and (scheme == "bio" or _closed(tags[start], before)):
            found.append((type_before, start, i))
        start, before, type_before = i, prefix, type_
    return found


def marks_entities(tags: Iterable[str]) -> bool:
    """Return whether every tag is O or has the prefix of a scheme, as those of parts of speech have not."""
    return all(TAG.fullmatch(tag) for tag in tags)


def scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme = "bio", seed: int = 0
) -> dict[str, Any]:
    """Return the scores of tagged documents, with 95 % bootstrap intervals over documents.

    An entity is right if its type and both its ends are. Overall scores are of all entities together (micro); macro
    averages are over the types that are gold or predicted. All of them are seqeval's. Tags without the prefixes of a
    scheme (`marks_entities`) are scored word by word.

    Args:
        gold: Tags of each word of each document.
        predicted: Likewise.
        scheme: See `spans`.
        seed: Of the resamples.

    Returns:
        documents, words, accuracy (of words), macro_precision, macro_recall, macro_f1, support; of entities also
        precision, recall, f1; types (of entities) or labels (of words): name -> precision, recall, f1, support; and
        `<score>_interval`: [low, high].

    Raises:
        UserError: There is no word, or documents or their words have not one prediction each.
    """
    sizes = _sizes(gold, predicted)
    entities = marks_entities({tag for tags in (*gold, *predicted) for tag in tags})
    names, documents = _counted(gold, predicted, partial(spans, scheme=scheme) if entities else _each_word)
    right = [sum(map(str.__eq__, *pair)) for pair in zip(gold, predicted, strict=True)]
    sums = resampled_sums(np.column_stack([right, sizes, documents]), seed=seed)
    counts, resampled = Counts.split(documents.sum(axis=0)), Counts.split(sums[:, 2:])
    result = {
        "documents": len(gold),
        "words": sum(sizes),
        "accuracy": sum(right) / sum(sizes),
        "accuracy_interval": interval(sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)),
    }
    if entities:
        result |= _averages("", counts.micro, resampled.micro)
    result |= _averages("macro_", counts, resampled)
    return result | {
        "support": int(counts.gold.sum()),
        "types" if entities else "labels": by_label(names, counts, resampled),
    }


def _parts(tag: str) -> tuple[str, str]:
    """Return the prefix of `tag` and its type."""
    match = TAG.fullmatch(tag)
    if match is None:
        raise UserError(f"tag {tag!r} marks no entity: it is neither O nor begins with B-, I-, E- or S-")
    return match[1] or match[2], match[3] or "_"


def _closed(first: str, last: str) -> bool:
    """Return whether a run of tags of one type is an entity in the strict reading, by its first tag and last prefix."""
    return (first[0], last) in (("B", "E"), ("S", "S"))


def _each_word(tags: Sequence[str]) -> list[Span]:
    return [(tag, i, i + 1) for i, tag in enumerate(tags)]


def _counted(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], read: Callable[[Sequence[str]], list[Span]]
) -> tuple[list[str], np.ndarray]:
    """Return the n types that occur, and how many of each are right, predicted and gold, int64[documents, 3 n]."""
    found = [(set(read(answers)), set(read(truth))) for truth, answers in zip(gold, predicted, strict=True)]
    names = sorted({type_ for pair in found for each in pair for type_, _, _ in each})
    column = {type_: i for i, type_ in enumerate(names)}
    counts = np.zeros((len(found), 3, len(names)), np.int64)
    for i, (answers, truth) in enumerate(found):
        for kind, entities in enumerate((answers & truth, answers, truth)):
            for type_, _, _ in entities:
                counts[i, kind, column[type_]] += 1
    return names, counts.reshape(len(found), -1)


def _averages(prefix: str, counts: Counts, resampled: Counts) -> dict[str, Any]:
    """Return the means of precision, recall and F1 over labels, with their intervals."""
    found: dict[str, Any] = {}
    for name in ("precision", "recall", "f1"):
        mean, spread = (each.macro(getattr(each, name)) for each in (counts, resampled))
        found |= {f"{prefix}{name}": float(mean), f"{prefix}{name}_interval": interval(spread)}
    return found


def _sizes(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[int]:
    """Return the words of each document, once they are known to have a tag each on both sides."""
    if len(gold) != len(predicted):
        raise UserError(f"{len(gold)} documents are tagged, but {len(predicted)} are predicted: score the same ones")
    for i, (truth, answers) in enumerate(zip(gold, predicted, strict=True)):
        if len(truth) != len(answers):
            raise UserError(f"document {i} has {len(truth)} words, but {len(answers)} predicted tags: give one a word")
    sizes = [len(tags) for tags in gold]
    if not sum(sizes):
        raise UserError("there are no tagged words to score: name a split that has some")
    return sizes
