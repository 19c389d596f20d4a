"""Tagging: windows cover documents, each word is scored once where it has most context, and tags come back whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.records import Row
from research.objectives import Tagging
from research.tasks import judge
from research.tasks import tagging as room
from research.tasks.items import Items
from research.tasks.prepare import encode_rows
from research.types import UserError
from tests.tasks.tiny import coder, tokens

LABELS = ("O", "B-X", "B-Y", "I-X")


def row(words, tags):
    return Row("f.jsonl:3", 3, {"tokens": words, "tags": tags})


@st.composite
def documents(draw):
    room_ = draw(st.integers(1, 12))
    sizes = draw(st.lists(st.integers(1, min(room_, 5)), min_size=1, max_size=40))
    return sizes, room_, draw(st.integers(0, room_))


@settings(max_examples=300, deadline=None)
@given(documents())
def test_windows_cover_a_document_and_overlap_as_told(drawn):
    sizes, size, overlap = drawn
    windows = room.cut(sizes, size, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == len(sizes)
    for start, end in windows:
        assert start < end and sum(sizes[start:end]) <= size
    for (a, b), (c, d) in zip(windows, windows[1:], strict=False):
        assert a < c <= b < d and sum(sizes[c:b]) <= overlap
        assert sum(sizes[a:b]) + sizes[b] > size  # as far as it goes
        assert sum(sizes[c - 1 : b]) > overlap or sum(sizes[c - 1 : b + 1]) > size  # and begun as early

    chosen = room.owners(sizes, windows)
    for word in range(len(sizes)):  # slowly
        distances = []
        for start, end in windows:
            left = np.inf if start == 0 else sum(sizes[start:word])
            right = np.inf if end == len(sizes) else sum(sizes[word + 1 : end])
            distances.append(min(left, right) if start <= word < end else -1)
        assert chosen[word] == int(np.argmax(distances))


WORDS = ["the", "cat", "unbelievable", "mat", "dog", "translate", "zzz"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(LABELS)), min_size=1, max_size=40),
                min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 8), st.integers(1, 5))  # fmt: skip
def test_every_word_is_decided_once_and_comes_back(pairs, per_row, overlap, batch):
    objective = Tagging("tokens", "tags", LABELS, overlap=overlap, per_row=per_row)
    rows = [row([word for word, _ in each], [tag for _, tag in each]) for each in pairs]
    ours = coder("bpe")
    table, wrong = encode_rows(objective, ours, 16, rows, labelled=True)
    arrays = table.arrays
    assert not wrong
    decides = arrays["word"] >= 0
    assert (arrays["weights"] == decides).all() and (decides == (arrays["example"] >= 0)).all()
    met = sorted(zip(arrays["example"][decides].tolist(), arrays["word"][decides].tolist(), strict=True))
    assert met == [(n, w) for n, each in enumerate(pairs) for w in range(len(each))]
    logits = np.eye(len(LABELS))[arrays["labels"]]  # a model that is always right
    tags = room.Tags(objective, table)
    for start in range(0, table.count, batch):
        index = np.arange(start, start + batch)
        tags.add(index, np.concatenate([logits, np.zeros((batch, 16, 4))])[index])
    expected = {n: [tag for _, tag in each] for n, each in enumerate(pairs)}
    assert tags.found() == expected


def one(objective, words, tags, length=24):
    items, example = Items(), room.example(objective, row(words, tags))
    counts = room.encode(objective, coder(), length, "encoder", [(0, example)], items)
    return {name: list(stream) for name, stream in items.streams.items()}, counts


@pytest.mark.parametrize("scored", ["first", "all"])
def test_first_tokens_or_all_of_them_are_scored(scored):
    objective = Tagging("tokens", "tags", LABELS, scored=scored)
    found, _ = one(objective, ["the", "tease", "onset", "\u200b"], ["O", "B-X", "B-Y", "I-X"])
    words = [len(ids) for ids in coder().words([["the", "tease", "onset", "\u200b"]])[0]]
    assert words[1] > 1 and words[2] > 1 and words[3] == 1
    later = [1, 3, 2, 3]  # B-X goes on as I-X; there is no I-Y
    expected, weights, at = [0], [0], [-1]
    for i, (size, first, other) in enumerate(zip(words, [0, 1, 2, 3], [0, *later[1:]], strict=True)):
        expected += [first] + [other] * (size - 1)
        weights += [1] + [int(scored == "all")] * (size - 1)
        at += [i] + [-1] * (size - 1)
    assert found["labels"] == [*expected, 0] and found["weights"] == [*weights, 0] and found["word"] == [*at, -1]
    spelled = tokens(coder(), found["tokens"])
    assert spelled[0] == "[CLS]" and spelled[-2:] == ["[UNK]", "[SEP]"]


def test_a_word_longer_than_a_row_is_cut_and_counted():
    long = "tease" * 8
    assert len(coder().words([[long]])[0][0]) > 6
    found, counts = one(Tagging("tokens", "tags", LABELS, overlap=2), ["the", long, "cat"], ["O"] * 3, 8)
    assert counts["cut"] == 1 and sum(found["weights"]) == 3


def test_entities_begun_by_inside_tags_are_counted():
    tags = ["I-X", "O", "I-X", "I-X", "B-Y", "I-X", "B-X", "I-X"]
    assert one(Tagging("tokens", "tags", LABELS), ["the"] * 8, tags)[1]["begun_inside"] == 3


def test_columns_and_their_mistakes():
    fields = {"id": 1, "tokens": ["a"], "ner_tags": ["O"], "pos_tags": ["X"]}
    found = room.named_columns(Tagging(), Row("f:1", 1, fields))
    assert (found.words, found.tags) == ("tokens", "ner_tags")
    objective = Tagging("tokens", "tags")
    for words, tags, said in (
        (["a", "b"], ["O"], "f.jsonl:3: 2 words in column 'tokens', but 1 tags in 'tags'"),
        (["a"], ["S-X"], "tag 'S-X' begins with none of the prefixes of scheme bio: set objective.scheme to iobes"),
        (["a"], ["L-X"], "rename its prefix"),
        ("a b", ["O"], "2 words in column 'tokens', but 1 tags"),
        (["a", None], ["O", "O"], "null in column 'tokens' is not a word: mend or remove the record"),
        (7, ["O"], "column 'tokens' holds an int, not a list: mend or remove the record, or set objective.words before"),
        (["a", "b"], [None, "O"], "None in column 'tags', beside labels that are told: mend or remove the record"),
        (["a", "b"], ["O", -100], "-100 in column 'tags', beside labels that are told"),
        ("a b", "O -1", "'-1' in column 'tags', beside labels that are told"),
    ):
        with pytest.raises(UserError) as caught:
            room.example(objective, row(words, tags))
        assert said in str(caught.value)
    for tags in (["NN"], ["-LRB-"], ["NP-SBJ"], [7]):
        room.example(objective, row(["a"], tags))
    room.example(Tagging("tokens", "tags", scheme="iobes"), row(["a"], ["S-X"]))
    lists = [(["a"] * 2, [one] * 2) for one in (-1, -100, "-100", None, "")]
    for words, tags in ((["a"], None), ("a b", "-1 -1"), *lists):
        assert room.example(objective, row(words, tags))["tags"] is None
    assert room.example(Tagging("tokens", "tags", ("-1", "1")), row(["a", "b"], [-1, 1]))["tags"] == ["-1", "1"]
    csv = room.example(objective, row(" the  cat", "O B-X"))  # which has no lists
    assert (csv["words"], csv["tags"]) == (["the", "cat"], ["O", "B-X"])
    by_id = Tagging("tokens", "tags", ("O", "B-X"))
    assert room.example(by_id, row(["a", "b", "c"], [0, 1, "B-X"]))["tags"] == ["O", "B-X", "B-X"]
    assert room.example(by_id, row("a b", "1 0"))["tags"] == ["B-X", "O"]
    assert room.example(Tagging("tokens", "tags", ("1", "0")), row(["a"], [1]))["tags"] == ["1"]
    other = Row("f:1", 1, {"words": ["a"], "ner_tags": ["O"]})
    assert room.renamed(objective, other) == Tagging("words", "ner_tags")
    assert room.example(objective, other, False) == {"place": "f:1", "words": ["a"]}
    lost = Row("f:1", 1, {"x": ["a"], "y": ["O"]})
    assert room.renamed(objective, lost) == objective
    with pytest.raises(UserError, match="set objective.words before training, or rename one to 'tokens'"):
        room.example(objective, lost)
    with pytest.raises(UserError, match="f:1: no column 'text', only 'x', 'y': set objective.words"):
        room.example(objective, lost, False)
    assert room.ordered(["I-A", "O", "B-A"]) == ("O", "B-A", "I-A") and room.ordered(["NN", "DT"]) == ("DT", "NN")


def test_documents_read_in_part_are_not_scored_and_that_is_said():
    objective = Tagging("tokens", "tags", ("O", "B-X"), overlap=2, per_row=1)
    rows = [row(["the", "cat"] * size, ["O", "B-X"] * size) for size in (1, 20)]
    table, _ = encode_rows(objective, coder(), 12, rows, labelled=True)
    right = np.eye(2)[table.arrays["labels"]]
    for read, documents in ((range(table.count), 2), ([0, 1], 1), ([0], 1)):
        tags = room.Tags(objective, table)
        tags.add(np.array(read), right[np.array(read)])
        scores = judge.scores(objective, table.examples, tags.found())
        assert scores["documents"] == documents and scores["f1"] == 1
    tags = room.Tags(objective, table)
    tags.add(np.array([1]), right[[1]])
    with pytest.raises(UserError, match="no document has all its windows among the rows .* raise evaluate_rows"):
        judge.scores(objective, table.examples, tags.found())


def test_plain_text_is_split_and_its_offsets_kept():
    text = "The cat, naïve\tsat."
    objective = Tagging("tokens", "tags", LABELS)
    rows = [Row("f:1", 1, {"text": text}), Row("f:2", 2, {"body": ""}), Row("f:3", 3, {"tokens": ["a", "dog"]})]
    rows += [Row("f:4", 4, {"tokens": "a dog", "text": "a cat"}), Row("f:5", 5, {"tokens": "a dog.", "id": 1})]
    table, wrong = encode_rows(objective, coder(), 24, rows)
    assert not wrong
    first = table.examples[0]
    assert first["words"] == ["The", "cat", ",", "naïve", "sat", "."]
    assert [text[start:end] for start, end in first["offsets"]] == first["words"]
    assert table.examples[2]["words"] == ["a", "dog"] and "tags" not in table.examples[2]
    assert table.examples[3]["words"] == ["a", "cat"] and table.examples[4]["words"] == ["a", "dog."]
    logits = np.eye(4)[np.ones((table.count, 24), int)]
    tags = room.Tags(objective, table)
    tags.add(np.arange(table.count), logits)
    assert tags.found()[2] == ["B-X", "B-X"]
