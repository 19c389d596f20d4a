"""Classification: columns and labels are found, rows hold every example once, and answers find their way back."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.records import Row
from research.objectives import Classification
from research.tasks import classification as room
from research.tasks.prepare import encode_rows
from research.types import UserError
from tests.tasks.tiny import coder, tokens


def row(**fields):
    return Row("f.jsonl:3", 3, fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "", "label": 1}, ("text", "", "label")),
        ({"idx": 0, "sentence": "", "labels": 1}, ("sentence", "", "labels")),
        ({"Label": 1, "Text": ""}, ("Text", "", "Label")),
        ({"hypothesis": "", "premise": "", "label": 1}, ("premise", "hypothesis", "label")),
        ({"question": "", "sentence": "", "label": 1}, ("question", "sentence", "label")),
        ({"sentence1": "", "sentence2": "", "score": 1.0}, ("sentence1", "sentence2", "score")),
        ({"review": {"body": ""}, "meta": {}, "text": "", "class": 1}, ("text", "", "class")),
        ({"text1": "", "text2": "", "text": "", "label": 1}, ("text1", "text2", "label")),
    ],
)
def test_columns_are_guessed(fields, expected):
    found = room.named_columns(Classification(), row(**fields))
    assert (found.text, found.pair, found.label) == expected
    assert room.named_columns(found, row(**fields)) == found  # a second time changes nothing


def test_columns_that_are_named_stay_and_may_be_nested():
    given = Classification(text="review.body", label="review.stars")
    nested = row(review={"body": "good", "stars": 5})
    found = room.named_columns(given, nested)
    assert found == given
    assert room.example(found, nested) == {"place": "f.jsonl:3", "text": "good", "label": "5"}


@pytest.mark.parametrize(
    ("objective", "fields", "said"),
    [
        (Classification(), {"a": "x", "b": {"c": 1}}, "no column is called label or alike, only 'a', 'b.c'"),
        (Classification(text="t", label="l"), {"a": "x", "l": 1}, "no column 't', only 'a', 'l': set objective.text"),
        (Classification(text="t", label="l"), {"t": 3, "l": 1}, "column 't' holds an int, not text"),
        (Classification(text="t", label="l"), {"t": "", "l": [1]}, "set objective.problem to multi_label"),
        (Classification(text="t", label="l"), {"t": "", "l": 0.5}, "set objective.problem to regression"),
        (Classification(text="t", label="l"), {"t": "", "l": float("nan")}, "NaN"),
        (Classification("multi_label", "t", "", "l"), {"t": "", "l": "a"},
         "column 'l' holds a str, not a list: give JSON lines or Parquet, for CSV has none"),
        (Classification("multi_label", "t", "", "l"), {"t": "", "l": [[]]}, "[] in column 'l' is not the name"),
        (Classification("multi_label", "t", "", "l"), {"t": "", "l": ["a", -1]}, "-1 in column 'l', beside labels"),
        (Classification("regression", "t", "", "l"), {"t": "", "l": "good"}, "'good' in column 'l' is not a number"),
        (Classification("regression", "t", "", "l"), {"t": "", "l": float("nan")}, "not a number"),
        (Classification("regression", "t", "", "l"), {"t": "", "l": True}, "not a number"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(objective, fields, said):
    with pytest.raises(UserError) as caught:
        room.example(room.named_columns(objective, row(**fields)), row(**fields))
    assert str(caught.value).startswith("f.jsonl:3: ") and said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "name"),
    [("pos", "pos"), (3, "3"), (3.0, "3"), (True, "true"), (0, "0")]
    + [(untold, None) for untold in (None, -1, -1.0, "", "-1", -100)],
)
def test_labels_have_names(label, name):
    assert room.example(Classification(text="t", label="l"), row(t="x", l=label))["label"] == name
    several = Classification("multi_label", "t", "", "l")
    assert room.example(several, row(t="x", l=[label, label]))["label"] == (None if name is None else [name])
    assert room.example(several, row(t="x", l=[]))["label"] == []  # which is told: there is none
    if label in (-1, -100):
        for objective, given in ((Classification(text="t", label="l"), label), (several, [label])):
            named = dataclasses.replace(objective, labels=("-1", "-100", "1"))
            assert room.example(named, row(t="x", l=given))["label"] in (str(int(label)), [str(int(label))])


def test_minus_one_is_a_label_where_it_is_named():
    objective = Classification(text="t", label="l", labels=("-1", "1"))
    assert room.example(objective, row(t="x", l=-1))["label"] == "-1"
    assert room.example(Classification("regression", "t", "", "l"), row(t="x", l="-1"))["label"] == -1.0
    assert room.ordered(["10", "9", "-1"]) == ("-1", "9", "10") and room.ordered("ba") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("", {"sentence1": "a", "sentence2": "b", "text": "c"}, "c"),
        ("sentence1", {"sentence1": "a", "sentence2": "b"}, "a"),
    ],
)
def test_a_text_can_be_read_alone_though_there_is_another(text, fields, expected):
    objective = room.named_columns(Classification(text=text, pair="-"), row(**fields, label=1))
    assert not objective.paired and room.example(objective, row(**fields, label=1))["text"] == expected
    objective = dataclasses.replace(objective, labels=("0", "1"))
    table, wrong = encode_rows(objective, coder(), 16, [row(**fields, label=1)], labelled=True)
    assert not wrong and "pair" not in table.examples[0] and "types" not in table.arrays


PAIR = ("premise", "hypothesis")


@pytest.mark.parametrize(
    ("text", "pair", "fields", "expected"),
    [
        ("text", "", {"sentence": "x", "kind": "y"}, {"text": "x"}),
        ("text", "", {"sentence1": "x", "sentence2": "y", "body": "z"}, {"text": "z"}),  # one text stays one
        ("text", "", {"text": "x", "sentence": "y"}, {"text": "x"}),
        ("text", "-", {"sentence": "x", "kind": "y"}, {"text": "x"}),
        (*PAIR, {"sentence1": "x", "sentence2": "y", "text": "z"}, {"text": "x", "pair": "y"}),
        (*PAIR, {"premise": "x", "question": "z", "sentence": "y"}, {"text": "z", "pair": "y"}),
        (*PAIR, {"premise": "x", "sentence": "y"}, "no column 'hypothesis', only 'premise'"),
        ("text", "", {"a": "x", "b": "y"}, ": set objective.text before training, or rename one to 'text'"),
    ],
)
def test_columns_of_other_data_are_guessed_anew(text, pair, fields, expected):
    objective = Classification(text=text, pair=pair, label="label", labels=("a", "b"))
    for labelled in (False, True):
        given = row(**fields, **{"class": "b"} if labelled else {})
        found = room.renamed(objective, given, labelled)
        if isinstance(expected, str):
            assert found == objective
            with pytest.raises(UserError) as caught:
                room.example(found, given, labelled)
            assert expected in str(caught.value) and "\n" not in str(caught.value)
        else:
            said = {"place": "f.jsonl:3", **expected}
            assert room.example(found, given, labelled) == said | ({"label": "b"} if labelled else {})
            assert found.labels == ("a", "b") and found.pair == pair or found.paired


def test_ids_stand_for_the_labels_that_are_named():
    named = Classification(text="t", label="l", labels=("neg", "pos"))
    same = [(each, each) for each in ("pos", "7", "²", "9" * 99)]
    for label, name in ((1, "pos"), ("0", "neg"), (1.0, "pos"), (7, "7"), *same):
        assert room.example(named, row(t="x", l=label))["label"] == name
    with pytest.raises(UserError, match="label '7' is not among objective.labels, which are neg, pos"):
        room.label_id(named.labels, "7", {"place": "f:1"})
    spelled = Classification(text="t", label="l", labels=("1", "0"))
    assert room.example(spelled, row(t="x", l=1))["label"] == "1"
    several = Classification("multi_label", "t", "", "l", ("a", "b", "c"))
    assert room.example(several, row(t="x", l=[2, "a", 0]))["label"] == ["a", "c"]


def test_a_label_that_is_not_among_them_is_refused():
    objective = Classification(text="t", label="l", labels=("positive", "negative"))
    with pytest.raises(UserError, match="f:1: label 'positve' is not among objective.labels: did you mean positive?"):
        room.label_id(objective.labels, "positve", {"place": "f:1"})


WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=9), min_size=1, max_size=30), st.integers(1, 6),
       st.sampled_from(["encoder", "decoder"]))  # fmt: skip
def test_rows_hold_every_example_once(texts, per_row, structure):
    objective = Classification(text="text", label="label", labels=("a", "b", "c"), per_row=per_row)
    rows = [Row(f"f:{i}", i, {"text": " ".join(text), "label": "abc"[i % 3]}) for i, text in enumerate(texts)]
    ours = coder()
    table, wrong = encode_rows(objective, ours, 12, rows, structure, labelled=True)
    arrays, seen = table.arrays, []
    assert not wrong
    assert arrays["tokens"].shape == (table.count, 12) and arrays["select"].shape == (table.count, per_row)
    for r in range(table.count):
        for k in range(per_row):
            number, inside = int(arrays["example"][r, k]), arrays["segments"][r] == k + 1
            assert arrays["weights"][r, k] == (number >= 0) == inside.any()
            if number >= 0:
                seen.append(number)
                assert tokens(ours, arrays["tokens"][r][inside]) == ["[CLS]", *texts[number], "[SEP]"]
                where = np.flatnonzero(inside)
                assert arrays["select"][r, k] == (where[0] if structure == "encoder" else where[-1])
                assert arrays["labels"][r, k] == number % 3
        assert (arrays["tokens"][r][arrays["segments"][r] == 0] == ours.known.pad).all()
    assert sorted(seen) == list(range(len(texts)))
    if per_row == 1:
        assert seen == list(range(len(texts)))


def test_the_objective_reads_the_rows():
    import jax

    labels = ["a", "b"]
    for problem, values, shape in (
        ("single_label", ["a", "b"], (2,)),
        ("multi_label", [["a", "b"], []], (2, 2)),
        ("regression", [0.5, "2"], (2, 1)),
    ):
        named = () if problem == "regression" else tuple(labels)
        objective = Classification(problem, "x", "y", "label", named, per_row=2)
        rows = [row(x="the cat", y="sat", label=value) for value in values]
        table, _ = encode_rows(objective, coder(), 16, rows, labelled=True)
        example = objective(jax.random.key(0), {name: array[0] for name, array in table.arrays.items()}, None)
        assert sorted(example.inputs) == ["segments", "select", "tokens", "types"]
        assert example.targets.shape == shape and example.weights.tolist() == [1, 1]
        assert set(example.inputs["types"][example.inputs["segments"] > 0].tolist()) == {0, 1}
        if problem == "multi_label":
            assert example.targets.tolist() == [[1, 1], [0, 0]]
        if problem == "regression":
            assert example.targets.tolist() == [[0.5], [2.0]]


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_answers_find_their_way_back_from_batches_of_any_size(problem):
    rows = [Row("", i, {"text": "the cat " * (1 + i % 5)}) for i in range(23)]
    objective = Classification(problem, "text", labels=() if problem == "regression" else ("a", "b", "c"), per_row=3)
    table, _ = encode_rows(objective, coder(), 16, rows)
    said = np.random.default_rng(0).normal(size=(23, 1 if problem == "regression" else 3)).astype(np.float32)
    logits = np.where((table.arrays["example"] >= 0)[..., None], said[table.arrays["example"]], 99.0)
    whole = room.predictions(objective, table, np.arange(table.count), logits)
    assert sorted(whole) == list(range(23))
    answers = room.Answers(objective, table)
    for start in range(0, table.count, 4):
        index = np.arange(start, start + 4)  # the last batch reaches beyond the rows
        padded = np.concatenate([logits, np.full((4, *logits.shape[1:]), 7.0)])
        answers.add(index, padded[index])
    answers.add(np.array([0]), np.full_like(logits[:1], -5))  # once more, and ignored
    found = answers.found()
    for number, answer in whole.items():
        np.testing.assert_array_equal(answer, found[number])
        expected = {
            "single_label": np.exp(said[number]) / np.exp(said[number]).sum(),
            "multi_label": 1 / (1 + np.exp(-said[number])),
            "regression": said[number][0],
        }[problem]
        np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_rows_that_cannot_be_encoded_are_said_and_the_others_are_there():
    objective = Classification(text="text", label="label", labels=("a", "b"))
    rows = [
        Row("f:1", 1, {"text": "the cat"}),
        Row("f:2", 2, {}, "f:2: broken"),
        Row("f:3", 3, {"text": 5}),
        Row("f:4", 4, {"body": "a dog"}),
        Row("f:5", 5, {"about": "a dog", "other": ""}),
    ]
    table, wrong = encode_rows(objective, coder(), 16, rows)
    assert wrong == {
        1: "f:2: broken",
        2: "f:3: column 'text' holds an int, not text: mend or remove the record, or set objective.text before training",
        4: "f:5: no column 'text', only 'about', 'other': set objective.text before training, or rename one to 'text'",
    }
    assert sorted(table.arrays["example"][table.arrays["example"] >= 0]) == [0, 3]
    assert [each["place"] for each in table.examples] == [f"f:{i}" for i in range(1, 6)]
    rows = [row(text="a", label=label) for label in ("a", "c", None)]
    table, wrong = encode_rows(objective, coder(), 16, rows, labelled=True)
    assert "label 'c' is not among" in wrong[1] and "the label is missing" in wrong[2] and len(wrong) == 2
    assert (table.arrays["example"] == 0).sum() == 1 and table.count == 1
    for chunk in ([], [Row("", 0, {}, "broken")]):
        table, _ = encode_rows(objective, coder(), 16, chunk)
        assert table.count == 0 and table.pick(np.array([0, 1]))["tokens"].shape == (2, 16)
        json.dumps(table.report)
