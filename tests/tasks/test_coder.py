"""Coders: the ids are the published tokenizers' own, and text never becomes a special token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.records import Row
from research.objectives import Classification
from research.tasks import classification
from research.tasks.classification import longest_first
from research.tasks.items import Items
from tests.tasks.tiny import coder, published, tokens

TEXTS = ["EU rejects German call.", "naïve cafés, 東京", "", "x" * 300, "one\ntwo  three"]


def one_row(objective, coder, length, example):
    items = Items()
    classification.encode(objective, coder, length, "encoder", [(0, example)], items)
    return {name: list(stream) for name, stream in items.streams.items()}


@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-cased", "roberta-base", "t5-small", "gpt2"])
def test_ids_are_the_tokenizers_own(tokenizer_folder, name):
    from transformers import AutoTokenizer

    tokenizer, ours = AutoTokenizer.from_pretrained(tokenizer_folder / name), published(str(tokenizer_folder / name))
    assert ours.ids(TEXTS) == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    objective = Classification(text="text", pair="pair")
    for first, second in [("a b c", "d e"), ("a " * 30, "b " * 7), ("a " * 7, "b " * 30), ("a " * 30, "b " * 30)]:
        single, double = {"text": first, "place": ""}, {"text": first, "pair": second, "place": ""}
        theirs = tokenizer(first, truncation=True, max_length=16)["input_ids"]
        assert one_row(Classification(text="text"), ours, 16, single)["tokens"] == theirs
        theirs = tokenizer(first, second, truncation=True, max_length=16, return_token_type_ids=True)
        found = one_row(objective, ours, 16, double)
        assert found["tokens"] == theirs["input_ids"]
        assert ("types" in found) == name.startswith("bert")
        assert found.get("types", theirs["token_type_ids"]) == theirs["token_type_ids"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(2, 20))
def test_longest_first_is_the_librarys(first, second, room):
    backend = coder("word").backend
    backend.enable_truncation(room, strategy="longest_first")
    try:
        found = backend.encode("cat " * first, "dog " * second, add_special_tokens=False)
    finally:
        backend.no_truncation()
    kept = tuple(sum(sequence == each for sequence in found.sequence_ids) for each in (0, 1))
    assert longest_first(first, second, room) == kept


def test_words_of_byte_level_tokenizers_have_their_space(tokenizer_folder):
    from transformers import AutoTokenizer

    words = ["EU", "rejects", "\u200b", "naïve", "."]
    theirs = AutoTokenizer.from_pretrained(tokenizer_folder / "roberta-base", add_prefix_space=True)
    expected = theirs(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    assert sum(published(str(tokenizer_folder / "roberta-base")).words([words])[0], []) == expected
    for name in ("bert-base-cased", "t5-small"):
        ours, theirs = published(str(tokenizer_folder / name)), AutoTokenizer.from_pretrained(tokenizer_folder / name)
        plain = [word for word in words if word != "\u200b"]
        expected = theirs(plain, is_split_into_words=True, add_special_tokens=False)["input_ids"]
        assert sum(ours.words([plain])[0], []) == expected
    bert = published(str(tokenizer_folder / "bert-base-cased"))
    assert bert.words([["a", "\u200b", "b"], []])[0][1] == [bert.unknown]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "character", "word"])
def test_every_kind_of_tokenizer_frames_and_splits(kind):
    ours = coder(kind)
    special = set(np.flatnonzero(ours.known.special)) - {ours.unknown}
    for text in ("the cat [SEP] sat", "a </s> <pad> [MASK] \ud800 dog"):
        assert not special & set(ours.ids([text])[0])
    assert len(ours.words([["the", "cat"], ["", "\ud800"]])[1]) == 2
    before, _, after = ours.single
    assert (tokens(ours, before), tokens(ours, after)) == {
        "wordpiece": (["[CLS]"], ["[SEP]"]), "unigram": ([], ["</s>"]),
    }.get(kind, ([], []))  # fmt: skip


def test_a_decoder_ends_in_eos_and_an_empty_text_has_a_token():
    ours, eos = coder("bpe"), coder("bpe").known.eos
    row = Row("f:1", 1, {"text": "the cat", "pair": "a dog"})
    objective = Classification(text="text", pair="pair")
    items = Items()
    example = classification.example(objective, row, labelled=False)
    classification.encode(objective, ours, 32, "decoder", [(0, example)], items)
    first, second = ours.ids(["the cat", "a dog"])
    assert list(items.streams["tokens"]) == [*first, eos, *second, eos]
    assert items.values["select"] == [len(first) + len(second) + 1]
    items = Items()
    classification.encode(Classification(text="text"), ours, 8, "encoder", [(0, {"text": "", "place": ""})], items)
    assert list(items.streams["tokens"]) == [ours.unknown]
