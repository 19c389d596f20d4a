"""Entities and their scores are seqeval's, on any sequence of tags; schemes translate without loss."""

import gzip
import itertools
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from research.tasks.entities import marks_entities, scores, spans
from research.types import UserError

TYPES = ("LOC", "PER", "work-of-art")
PREFIXES = {"bio": "BI", "iobes": "BIES"}


def tags_of(scheme):
    """Any sequence of a scheme's tags: most are malformed."""
    tags = ["O", *(f"{prefix}-{name}" for prefix in PREFIXES[scheme] for name in TYPES)]
    return st.lists(st.sampled_from(tags), max_size=12)


def documents_of(scheme):
    """Documents as pairs of as many gold as predicted tags, many of which agree."""
    tags = ["O", "O", *(f"{prefix}-{name}" for prefix in PREFIXES[scheme] for name in TYPES[:2])]
    word = st.one_of(st.sampled_from(tags).map(lambda tag: (tag, tag)), st.tuples(*[st.sampled_from(tags)] * 2))
    return st.lists(st.lists(word, min_size=1, max_size=8), min_size=1, max_size=6)


def valid(scheme):
    """Sequences as an annotator writes them: entities and words outside, one after another."""
    piece = st.one_of(st.just(("O", 1)), st.tuples(st.sampled_from(TYPES), st.integers(1, 4)))

    def write(pieces):
        tags = []
        for name, size in pieces:
            if name == "O":
                tags.append("O")
            elif scheme == "bio":
                tags += [f"B-{name}"] + [f"I-{name}"] * (size - 1)
            else:
                tags += [f"S-{name}"] if size == 1 else [f"B-{name}", *[f"I-{name}"] * (size - 2), f"E-{name}"]
        return tags

    return st.lists(piece, max_size=8).map(write)


def oracle(tags, scheme):
    """What seqeval reads, ends exclusive."""
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    from seqeval.scheme import IOBES, Entities

    if scheme == "bio":
        return [(name, start, end + 1) for name, start, end in sequence_labeling.get_entities(tags)]
    return [(entity.tag, entity.start, entity.end) for entity in Entities([tags], IOBES).entities[0]]


@pytest.mark.parametrize("scheme", ["bio", "iobes"])
def test_spans_of_every_short_sequence_are_seqevals(scheme):
    tags = ["O", *(f"{prefix}-{name}" for prefix in "BIES" for name in "XY")]  # lenient reading knows E- and S- too
    for size in range(4):
        for sequence in itertools.product(tags, repeat=size):
            assert spans(list(sequence), scheme) == oracle(list(sequence), scheme), sequence


@pytest.mark.parametrize("scheme", ["bio", "iobes"])
@settings(deadline=None)
@given(data=st.data())
def test_spans_are_seqevals(scheme, data):
    tags = data.draw(tags_of(scheme))
    assert spans(tags, scheme) == oracle(tags, scheme)


def test_tags_without_a_type_are_of_one_type():
    assert spans(["B", "I", "O", "I-"]) == [("_", 0, 2), ("_", 3, 4)] == oracle(["B", "I", "O", "I-"], "bio")
    with pytest.raises(UserError, match="'NN' marks no entity"):
        spans(["O", "NN"])


def marked(entities, length, scheme):
    """Return the tags of `length` words that mark `entities`."""
    tags = ["O"] * length
    for type_, start, end in entities:
        marks = ["B", *"I" * (end - start - 1)]
        if scheme == "iobes":
            marks = ["S"] if end - start == 1 else [*marks[:-1], "E"]
        tags[start:end] = [f"{mark}-{type_}" for mark in marks]
    return tags


def translated(tags, scheme, other):
    """Return tags of a scheme in the other one, with the same entities."""
    return marked(spans(tags, scheme), len(tags), other)


@pytest.mark.parametrize(("scheme", "other"), [("bio", "iobes"), ("iobes", "bio")])
@settings(deadline=None)
@given(data=st.data())
def test_tags_are_translated_and_back_without_loss(scheme, other, data):
    tags = data.draw(valid(scheme))
    assert translated(translated(tags, scheme, other), other, scheme) == tags
    tags = data.draw(tags_of(scheme))
    assert spans(translated(tags, scheme, other), other) == spans(tags, scheme)


@pytest.mark.parametrize("scheme", ["bio", "iobes"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_scores_are_seqevals(scheme, data):
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOBES

    documents = data.draw(documents_of(scheme))
    gold, predicted = ([[pair[side] for pair in document] for document in documents] for side in (0, 1))
    found = scores(gold, predicted, scheme)
    settings_ = {"mode": "strict", "scheme": IOBES} if scheme == "iobes" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(gold, predicted))
        if not found["types"]:
            assert found["f1"] == found["macro_f1"] == found["support"] == 0
            return
        report = seqeval.classification_report(gold, predicted, output_dict=True, zero_division=0, **settings_)
    for name, mine in found["types"].items():
        theirs = report.pop(name)
        assert [mine[k] for k in ("precision", "recall", "f1")] == pytest.approx(
            [theirs[k] for k in ("precision", "recall", "f1-score")]
        )
        assert mine["support"] == theirs["support"]
    for prefix, average in (("", "micro avg"), ("macro_", "macro avg")):
        theirs = report.pop(average)
        assert [found[f"{prefix}{k}"] for k in ("precision", "recall", "f1")] == pytest.approx(
            [theirs[k] for k in ("precision", "recall", "f1-score")]
        )
        assert found["support"] == theirs["support"]
    assert set(report) == {"weighted avg"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_interval_resamples_documents_not_words():
    # Half of the documents are all right and half all wrong: ten words each say no more than one.
    generator = np.random.default_rng(0)
    gold = [["B-X", "O"] * size for size in [1] * 40]
    predicted = [tags if i % 2 else ["O"] * len(tags) for i, tags in enumerate(gold)]
    long = [tags * 10 for tags in gold], [tags * 10 for tags in predicted]
    assert scores(gold, predicted)["f1_interval"] == scores(*long)["f1_interval"]
    slow = {"precision": [], "recall": [], "f1": []}
    for _ in range(400):
        right = np.sum(generator.integers(0, 40, 40) % 2)
        for name, value in (("precision", 1.0), ("recall", right / 40), ("f1", 2 * right / (right + 40))):
            slow[name].append(value)  # what is predicted at all is right
    found = scores(gold, predicted)
    for name, values in slow.items():
        expected = np.quantile(values, [0.025, 0.975])
        for each in (found, found["types"]["X"]):
            np.testing.assert_allclose(each[f"{name}_interval"], expected, atol=0.06)
        assert found[f"macro_{name}_interval"] == found[f"{name}_interval"]  # of the one type that there is


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(["NN", "VB", "B-x", "O"])] * 2), min_size=1), max_size=5))
def test_parts_of_speech_are_scored_word_by_word(documents):
    documents.append([("NN", "NN")])
    gold, predicted = ([[pair[side] for pair in document] for document in documents] for side in (0, 1))
    found = scores(gold, predicted)
    flat = [tag for tags in gold for tag in tags], [tag for tags in predicted for tag in tags]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(*flat))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(*flat, average="macro", zero_division=0))
    assert set(found["labels"]) == {*flat[0], *flat[1]} and "f1" not in found and found["words"] == len(flat[0])


def test_which_tags_mark_entities():
    assert marks_entities(["O", "B-X", "I-X"]) and marks_entities(["O"]) and marks_entities(["B", "I"])
    assert not marks_entities(["NN", "O"]) and not marks_entities(["SYM"])


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="document 1 has 2 words, but 1 predicted tags"):
        scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(UserError, match="2 documents are tagged, but 1 are predicted"):
        scores([["O"], ["O"]], [["O"]])
    with pytest.raises(UserError, match="no tagged words"):
        scores([[]], [[]])


def test_real_sentences_of_conll(data_folder):
    with gzip.open(data_folder / "conll2003" / "test.jsonl.gz", "rt") as lines:
        tags = [json.loads(line)["tags"] for line in lines]
    assert scores(tags, tags)["f1_interval"] == [1, 1]
    assert all(translated(translated(each, "bio", "iobes"), "iobes", "bio") == each for each in tags)
    # Support as Tjong Kim Sang and De Meulder (2003), table 2, count it.
    types = scores(tags, [["O"] * len(each) for each in tags])["types"]
    support = {name: found["support"] for name, found in types.items()}
    assert support == {"LOC": 1668, "MISC": 702, "ORG": 1661, "PER": 1617}
