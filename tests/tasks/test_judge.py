"""A model's answers beside several labels or numbers, against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.objectives.classification import Classification
from research.objectives.tagging import Tagging
from research.tasks import judge
from research.types import UserError

NAMES = ("cat", "dog", "red")
SEVERAL = Classification("multi_label", text="text", label="labels", labels=NAMES)
NUMBER = Classification("regression", text="text", label="number")


def examples(labels):
    return [{"place": f"f:{n}", "text": f"text {n}", "label": label} for n, label in enumerate(labels)]


cases = st.lists(
    st.tuples(st.lists(st.sampled_from(NAMES), unique=True), st.tuples(*[st.floats(0, 1, width=32)] * 3)),
    min_size=1,
    max_size=8,
)


@given(cases)
@settings(deadline=None, max_examples=10)
def test_several_labels_are_judged_by_their_sets(pairs):
    told = examples([labels for labels, _ in pairs])
    answers = {n: np.array(said, np.float32) for n, (_, said) in enumerate(pairs)}
    gold = judge.golden(SEVERAL, told)
    assert gold.dtype == bool and gold.tolist() == [[name in labels for name in NAMES] for labels, _ in pairs]

    chosen = [[name for name, p in zip(NAMES, said, strict=True) if p >= 0.5] for _, said in pairs]
    scores = judge.scores(SEVERAL, told, answers)
    assert scores["examples"] == len(pairs) and set(scores["labels"]) == set(NAMES)
    exact = [set(labels) == set(found) for (labels, _), found in zip(pairs, chosen, strict=True)]
    assert scores["subset_accuracy"] == pytest.approx(np.mean(exact))

    worst = judge.worst(SEVERAL, told, answers, 3)
    assert len(worst) == min(3, len(pairs) - sum(exact))

    def surest_error(number):
        labels, said = pairs[number]
        return max(
            (max(p, 1 - p) for name, p in zip(NAMES, said, strict=True) if (name in labels) != (p >= 0.5)), default=0
        )

    order = sorted(range(len(pairs)), key=lambda n: -surest_error(n))
    assert [each["place"] for each in worst] == [f"f:{n}" for n in order[: len(worst)]]
    for each in worst:
        number = int(each["place"][2:])
        assert each["label"] == pairs[number][0] and each | judge.answer(SEVERAL, answers[number]) == each


def test_right_is_what_is_likeliest_of_one_label_alone():
    single = Classification(text="text", label="label", labels=NAMES)
    answers = {0: np.array([0.2, 0.5, 0.3]), 2: np.array([0.6, 0.3, 0.1])}  # none of the second
    assert judge.right(single, examples(["dog", "cat", "red"]), answers).tolist() == [True, False]
    assert judge.right(SEVERAL, [], {}) is None and judge.right(Tagging(), [], {}) is None


def test_an_answer_of_several_labels_names_those_from_the_threshold():
    answer = judge.answer(SEVERAL, np.array([0.5, 0.49, 1.0], np.float32))
    assert answer == {"predicted": ["cat", "red"], "probabilities": {"cat": 0.5, "dog": 0.49, "red": 1.0}}
    assert judge.answer(SEVERAL, np.zeros(3, np.float32))["predicted"] == []


numbers = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=8)


@given(numbers)
@settings(deadline=None, max_examples=10)
def test_numbers_are_judged_by_their_distance(pairs):
    told = examples([gold for gold, _ in pairs])
    answers = {n: said for n, (_, said) in enumerate(pairs)}
    gold = judge.golden(NUMBER, told)
    assert gold.dtype == np.float64 and gold.tolist() == [gold for gold, _ in pairs]
    scores = judge.scores(NUMBER, told, answers)
    distances = [abs(a - b) for a, b in pairs]
    assert scores["examples"] == len(pairs)
    assert scores["mean_absolute_error"] == pytest.approx(np.mean(distances))
    assert scores["mean_squared_error"] == pytest.approx(np.mean(np.square(distances)))
    worst = judge.worst(NUMBER, told, answers, 3)
    assert [each["place"] for each in worst] == [
        f"f:{n}" for n in sorted(range(len(pairs)), key=lambda n: -distances[n])[:3]
    ]
    assert all(each["predicted"] == pairs[int(each["place"][2:])][1] for each in worst)
    assert judge.answer(NUMBER, pairs[0][1]) == {"predicted": pairs[0][1]}


def test_examples_without_an_answer_are_not_judged():
    told = examples([["cat"], ["dog"], []])
    answers = {2: np.zeros(3, np.float32), 0: np.array([0.0, 0.9, 0.0], np.float32)}
    scores = judge.scores(SEVERAL, told, answers)
    assert scores["examples"] == 2 and scores["subset_accuracy"] == 0.5
    assert [each["place"] for each in judge.worst(SEVERAL, told, answers, 9)] == ["f:0"]
    with pytest.raises(UserError, match="not a number"):
        judge.scores(NUMBER, examples([1.0, 2.0]), {0: 1.0, 1: float("nan")})


def test_what_is_chosen_does_not_depend_on_how_many_digits_are_shown():
    one = Classification(labels=("a", "b"))
    assert judge.answer(one, np.array([0.4999998, 0.5000002]))["predicted"] == "b"
    assert judge.answer(SEVERAL, np.array([0.4999998, 0.5, 0.6]))["predicted"] == list(SEVERAL.labels[1:])


@given(st.lists(st.lists(st.tuples(*[st.sampled_from(["O", "B-X", "I-X"])] * 2), min_size=1, max_size=5), min_size=1))
@settings(deadline=None, max_examples=20)
def test_the_worst_documents_have_the_most_wrong_words(documents):
    told = [{"place": f"f:{n}", "tags": [gold for gold, _ in each]} for n, each in enumerate(documents)]
    answers = {n: [said for _, said in each] for n, each in enumerate(documents)}
    wrong = [sum(gold != said for gold, said in each) for each in documents]
    expected = sorted((n for n in range(len(documents)) if wrong[n]), key=lambda n: -wrong[n])[:3]
    worst = judge.worst(Tagging(), told, answers, 3)
    assert [each["place"] for each in worst] == [f"f:{n}" for n in expected]
    assert all(each["predicted"] == answers[int(each["place"][2:])] for each in worst)


@pytest.mark.parametrize("objective", [SEVERAL, NUMBER, Classification(labels=("a", "b")), Tagging(labels=("O", "B-X"))])
def test_the_scores_that_are_promised_are_those_that_come(objective):
    tags = isinstance(objective, Tagging)
    label = 2.0 if objective is NUMBER else ["cat"] if objective is SEVERAL else "a"
    answer = ["B-X"] if tags else 1.0 if objective is NUMBER else np.array([0.6, 0.3, 0.1][: len(objective.labels)])
    example = {"tags": ["B-X"]} if tags else {"label": label}
    assert judge.promised(objective).keys() == judge.scores(objective, [example] * 2, {0: answer, 1: answer}).keys()
