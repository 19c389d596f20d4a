"""A corpus: documents tokenised once into one long memory-mapped array, with document starts and byte counts."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from research.types import UserError, Vocabulary

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

Framing = Literal["template", "none"]
Progress = Callable[[str, int], None]
"""Called now and then with what is being done, and how many documents have been."""

BATCH = 1 << 20  # characters handed to the tokenizer's threads at once: some 250,000 tokens, 100 MB while encoded
NARROW = np.iinfo(np.uint16).max
UNKNOWN = "\ufdd0"  # Unicode's noncharacters never occur in interchanged text: they stand for the unknown word ...
SPACED = "\ufdd1"  # ... and for the unknown word with the space before it


@dataclass(frozen=True, eq=False)
class Corpus:
    """One split of one source as N tokens, memory-mapped: nothing is read before it is looked up."""

    name: str
    tokens: np.ndarray  # uint16[N], or uint32[N] for a vocabulary beyond 65,536
    starts: np.ndarray  # uint8[N]: 1 where a document begins
    bytes: np.ndarray  # uint16[N] or uint32[N]: UTF-8 bytes of text that each token stands for, 0 for special tokens
    meta: dict[str, Any]  # documents, tokens, bytes, unknown (tokens), empty (documents left out), highest (id)


def write(
    folder: pathlib.Path,
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    known: Vocabulary,
    framing: Framing = "template",
    unknown: str = "",
    progress: Progress = lambda what, done: None,
) -> dict[str, Any]:
    """Write the arrays of a `Corpus` and meta.json into `folder`; return what meta.json says.

    Every document's byte counts sum to its UTF-8 length, whatever the tokenizer normalises or drops: a token has the
    bytes from the end of the token before it to its own end, the last one all that is left. Documents that give no
    tokens (white space only, say) are left out and counted.

    Args:
        known: What `vocabulary(tokenizer)` says.
        framing: `template` puts the tokenizer's own special tokens around every document, and an eos after it where
            that template has none at the end; `none` puts nothing between documents, as T5's concatenation.
        unknown: How the text spells an unknown word (`<unk>`), turned into the tokenizer's unknown token; else empty.

    Raises:
        UserError: no document gives a token; or `unknown` is set and the tokenizer has no unknown token.
    """
    encode = Encoder(tokenizer, known, framing, unknown)
    token_type = np.uint16 if known.size <= NARROW + 1 else np.uint32
    meta = {"documents": 0, "tokens": 0, "bytes": 0, "unknown": 0, "empty": 0, "highest": 0, "widest": 0}
    with (
        open(folder / "tokens.bin", "wb") as token_file,
        open(folder / "starts.bin", "wb") as start_file,
        open(folder / "bytes.bin", "wb") as byte_file,
    ):
        for batch in _batches(documents):
            tokens, starts, sizes = encode(batch)
            if tokens.max(initial=0) >= known.size:
                raise UserError(f"the tokenizer gave id {tokens.max()}, beyond its vocabulary of {known.size} ids")
            token_file.write(tokens.astype(token_type).tobytes())
            start_file.write(starts.tobytes())
            byte_file.write(sizes.astype(np.uint32).tobytes())
            given = int(starts.sum())
            meta["documents"] += given
            meta["empty"] += len(batch) - given
            meta["tokens"] += len(tokens)
            meta["bytes"] += int(sizes.sum())
            meta["unknown"] += int(((tokens == encode.unk) & (sizes > 0)).sum())  # GPT-2's is also its eos, of 0 bytes
            meta["highest"] = max(meta["highest"], int(tokens.max(initial=0)))
            meta["widest"] = max(meta["widest"], int(sizes.max(initial=0)))
            progress("tokenising", meta["documents"] + meta["empty"])
    if not meta["tokens"]:
        raise UserError("no tokens: every document is empty after cleaning; check the source and the cleaning filters")
    if meta["widest"] <= NARROW:  # nearly always; only then does half the size hold them
        _narrow(folder / "bytes.bin")
    meta |= {"token_type": np.dtype(token_type).name, "byte_type": "uint16" if meta["widest"] <= NARROW else "uint32"}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return meta


def read(folder: pathlib.Path, name: str) -> Corpus:
    """Return the corpus that `write` left in `folder`.

    Raises:
        UserError: a file is missing or has another size than meta.json says: delete the folder to build it anew.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        types = {"tokens": meta["token_type"], "starts": "uint8", "bytes": meta["byte_type"]}
        arrays = {key: np.memmap(folder / f"{key}.bin", type_, "r") for key, type_ in types.items()}
        wrong = [key for key, array in arrays.items() if len(array) != meta["tokens"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the cached corpus {folder} cannot be read ({error}): delete it to build it anew") from error
    if wrong:
        raise UserError(f"the cached corpus {folder} has a cut {wrong[0]}.bin: delete it to build it anew")
    return Corpus(name=name, meta=meta, **arrays)


class Encoder:
    """Turns a batch of documents into flat arrays: (tokens int64[N], starts uint8[N], bytes int64[N]).

    Text is data: a special token spelled in it (`</s>`, `[MASK]`) is encoded as the characters it is made of, or as
    the unknown token where the tokenizer knows no other way (Unigram and word vocabularies hold the spelling itself).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, known: Vocabulary, framing: Framing = "template", unknown: str = ""
    ) -> None:
        if unknown and tokenizer.unk_token_id is None:
            raise UserError(f"the tokenizer has no unknown token to stand for {unknown!r}: leave --data.unknown empty")
        self.backend = plain_copy(tokenizer, marked=bool(unknown))
        self.template, self.unknown = framing == "template", unknown
        self.unk = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        self.ids = np.arange(max(known.size, self.backend.get_vocab_size()) + 2)  # what each id of the copy becomes
        if self.unk >= 0:
            self.ids[: known.size][known.special] = self.unk
            markers = [self.backend.token_to_id(marker) for marker in (UNKNOWN, SPACED)] if unknown else []
            if any(marker < known.size for marker in markers):  # the library counts tokens to find the next free id
                raise UserError("the tokenizer's ids have holes, which --data.unknown cannot work with: leave it empty")
            self.ids[markers] = self.unk
        self.ending = []
        if self.template and known.eos is not None:
            framed = self.backend.encode("a")
            if not (framed.special_tokens_mask[-1] and framed.ids[-1] == known.eos):
                self.ending = [known.eos]

    def __call__(self, documents: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        texts = [document if document.isascii() else valid(document) for document in documents]
        if self.unknown:
            texts = [text.replace(" " + self.unknown, SPACED).replace(self.unknown, UNKNOWN) for text in texts]
        found = self.backend.encode_batch(texts, add_special_tokens=self.template)
        kept = [(text, each) for text, each in zip(texts, found, strict=True) if 0 in each.special_tokens_mask]
        if not kept:
            return np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64)
        texts, found = [text for text, _ in kept], [each for _, each in kept]

        ending = len(self.ending)
        counts = np.array([len(each) + ending for each in found])
        firsts = np.cumsum(counts) - counts
        total = int(counts.sum())
        tokens = np.fromiter(_flat(each.ids + self.ending for each in found), np.int64, total)
        template = np.fromiter(_flat(each.special_tokens_mask + [1] * ending for each in found), np.int8, total)
        ordinary = template == 0
        ends = np.fromiter(_flat([end for _, end in each.offsets] + [0] * ending for each in found), np.int64, total)
        tokens[ordinary] = self.ids[tokens[ordinary]]
        starts = np.zeros(total, np.uint8)
        starts[firsts] = 1

        upto = self._bytes_upto("".join(texts))  # in bytes, for every character of the batch
        lengths = np.array([len(text) for text in texts])
        bounds = np.cumsum(lengths)
        ends = ends + np.repeat(bounds - lengths, counts)
        last = np.maximum.reduceat(np.where(ordinary, np.arange(total), -1), firsts)
        ends[last] = bounds
        sizes = np.zeros(total, np.int64)
        sizes[ordinary] = np.diff(np.maximum.accumulate(upto[ends[ordinary]]), prepend=0)
        return tokens, starts, sizes

    def _bytes_upto(self, text: str) -> np.ndarray:
        """Return int64[len(text) + 1]: UTF-8 bytes before each character, markers counted as what they stand for."""
        if text.isascii():
            return np.arange(len(text) + 1)
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int64) + (points >= 0x10000)
        if self.unknown:
            sizes[points == ord(UNKNOWN)] = len(self.unknown.encode())
            sizes[points == ord(SPACED)] = len(self.unknown.encode()) + 1
        return np.concatenate([[0], np.cumsum(sizes)])


def plain_copy(tokenizer: PreTrainedTokenizerFast, marked: bool = False) -> tokenizers.Tokenizer:
    """Return a copy of the tokenizer that cuts and pads nothing, reads special tokens as text, knows the markers."""
    from tokenizers import AddedToken, Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    if marked:
        backend.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in (UNKNOWN, SPACED)])
    return backend


def valid(text: str) -> str:
    """Return `text` with lone surrogates, which JSON can smuggle in and UTF-8 cannot hold, replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _flat(lists: Iterable[list]) -> Iterator:
    return itertools.chain.from_iterable(lists)


def _narrow(path: pathlib.Path, at_once: int = 1 << 22) -> None:
    """Rewrite a file of uint32 as uint16."""
    wide = np.memmap(path, np.uint32, "r")
    narrow = path.with_suffix(".narrow")
    with open(narrow, "wb") as file:
        for start in range(0, len(wide), at_once):
            file.write(wide[start : start + at_once].astype(np.uint16).tobytes())
    narrow.replace(path)
