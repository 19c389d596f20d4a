"""A tiny tokenizer and coders of published ones, for the tests of this room."""

import functools
import json

from research.data.tokenizer import Tokenizer, load, train, vocabulary
from research.tasks.coder import Coder

TEXT = [
    "the cat sat on the mat . who sat there ?",
    "a dog ran off , unbelievable !",
    "translate English to German : the house is small",
    "das Haus ist klein . question context answer",
] * 3


@functools.cache
def coder(kind: str = "wordpiece") -> Coder:
    """Return a coder of a tokenizer trained here: wordpiece frames as BERT, unigram as T5, bpe not at all."""
    size = 400 if kind == "bpe" else 160
    tokenizer = train(Tokenizer(kind=kind, size=size, sentinels=0, min_frequency=1), TEXT)
    return Coder(tokenizer, vocabulary(tokenizer))


@functools.cache
def published(path: str) -> Coder:
    """Return the coder of a published tokenizer."""
    tokenizer = load(path)
    return Coder(tokenizer, vocabulary(tokenizer))


def tokens(coder: Coder, ids) -> list[str]:
    """Return ids as the texts of their tokens."""
    return [coder.backend.id_to_token(int(i)) for i in ids]


def write(folder, **splits):
    """Write each split's records as JSON lines; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, fields in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in fields))
    return folder
