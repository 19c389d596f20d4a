"""Text to ids, with special tokens where the tokenizer's template has them and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from research.data.packing import plain_copy, valid
from research.types import Vocabulary

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

Ids = list[int]


class Frame(NamedTuple):
    """The special tokens around a text, or around and between two."""

    before: Ids
    between: Ids  # empty for one text
    after: Ids

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self))


class Coder:
    """What turns texts into ids.

    Text is data: a special token spelled in it is encoded as the characters it is made of, or as the unknown token
    where the tokenizer knows no other way, as in corpora of running text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, known: Vocabulary) -> None:
        self.known = known
        self.backend = plain_copy(tokenizer)
        fallback = (tokenizer.unk_token_id, known.eos, known.pad, 0)
        self.unknown: int = next(each for each in fallback if each is not None)
        self.single = _frame(self.backend.encode("a"))
        found = self.backend.encode("a", "b")
        self.pair = _frame(found)
        self.types = _types(found)  # of the parts: before, first, between, second, after; None where all are 0
        self._special = frozenset(np.flatnonzero(known.special[: known.size]).tolist()) - {self.unknown}
        self._spaced = not self._alone("b") and self._alone(" b")

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, without special tokens."""
        found = self.backend.encode_batch_fast([valid(text) for text in texts], add_special_tokens=False)
        return [self._plain(each.ids) for each in found]

    def words(self, documents: Sequence[Sequence[str]]) -> list[list[Ids]]:
        """Return the ids of every word of every document; a word that the tokenizer drops is the unknown token.

        Where a space belongs to the token that follows it (byte-level BPE), every word has one before it, as with
        add_prefix_space, so that words read as inside a text.
        """
        # Not encode_batch_fast, which does not say which word a token is of.
        space = " " if self._spaced else ""
        given = [[space + valid(word) for word in words] for words in documents]
        found = self.backend.encode_batch(given, is_pretokenized=True, add_special_tokens=False)
        result = []
        for words, each in zip(documents, found, strict=True):
            split: list[Ids] = [[] for _ in words]
            for token, word in zip(self._plain(each.ids), each.word_ids, strict=True):
                split[word].append(token)
            result.append([ids or [self.unknown] for ids in split])
        return result

    def offsets(self, text: str) -> tuple[Ids, list[tuple[int, int]]]:
        """Return the ids of a text and where in it each begins and ends, in characters."""
        found = self.backend.encode(valid(text), add_special_tokens=False)
        return self._plain(found.ids), found.offsets

    def _plain(self, ids: Ids) -> Ids:
        return ids if self._special.isdisjoint(ids) else [self.unknown if i in self._special else i for i in ids]

    def _alone(self, word: str) -> bool:
        """Whether `word`, given as the second word, has the ids that "b" has inside a text."""
        split = self.backend.encode(["a", word], is_pretokenized=True, add_special_tokens=False)
        whole = self.backend.encode("a b", add_special_tokens=False)
        of_b = [token for token, (_, end) in zip(whole.ids, whole.offsets, strict=True) if end == len("a b")]
        return [token for token, at in zip(split.ids, split.word_ids, strict=True) if at == 1] == of_b


def _frame(found: tokenizers.Encoding) -> Frame:
    parts: tuple[Ids, Ids, Ids] = ([], [], [])
    last = max((s for s in found.sequence_ids if s is not None), default=0)
    seen = -1
    for token, sequence in zip(found.ids, found.sequence_ids, strict=True):
        if sequence is not None:
            seen = sequence
        else:
            parts[0 if seen < 0 else 1 if seen < last else 2].append(token)
    return Frame(*parts)


def _types(pair: tokenizers.Encoding) -> tuple[int, int, int, int, int] | None:
    """Return the token type of each part of a pair; parts without a token have their neighbour's.

    None where the tokenizer's template gives none: without a template the library makes some up.
    """
    if not any(pair.type_ids) or not any(_frame(pair)):
        return None
    kinds = list(zip(pair.sequence_ids, pair.type_ids, strict=True))
    first, second = (next(kind for sequence, kind in kinds if sequence == each) for each in (0, 1))
    special = [kind for sequence, kind in kinds if sequence is None]
    frame = _frame(pair)
    between = special[len(frame.before)] if frame.between else first
    return special[0] if frame.before else first, first, between, second, special[-1] if frame.after else second
