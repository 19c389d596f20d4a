"""What two models say of the same examples, compared: scores are those of the task, and examples are drawn in pairs."""

import numpy as np
import pytest

from experiments.pretraining import compared


def told(gold, predicted):
    return [{"label": a, "predicted": b} for a, b in zip(gold, predicted, strict=True)]


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    gold = rng.choice(["ham", "spam"], 400, p=[0.8, 0.2])
    other = np.where(gold == "ham", "spam", "ham")
    return [told(gold, np.where(rng.random(400) < right, gold, other)) for right in (0.8, 0.95)]


def test_scores_are_those_of_scikit_learn(answers):
    from sklearn import metrics

    for measure, score in (
        ("accuracy", metrics.accuracy_score),
        ("F1 of spam", lambda a, b: metrics.f1_score(a, b, pos_label="spam")),
    ):
        found = compared(*answers, measure)
        scratch, pretrained = (score(*zip(*[(e["label"], e["predicted"]) for e in each], strict=True)) for each in answers)
        assert found["scratch"] == pytest.approx(scratch) and found["pretrained"] == pytest.approx(pretrained)
        assert found["difference"] == pytest.approx(pretrained - scratch)
        low, high = found["difference_interval"]
        assert 0 < low < found["difference"] < high and found["examples"] == 400


def test_entities_are_counted_whole():
    one = [{"tags": ["B-PER", "I-PER", "O", "B-LOC"], "predicted": ["B-PER", "O", "O", "B-LOC"]}] * 5
    two = [{"tags": ["B-PER", "I-PER", "O", "B-LOC"], "predicted": ["B-PER", "I-PER", "O", "B-LOC"]}] * 5
    found = compared(one, two, "entity F1")
    assert (found["scratch"], found["pretrained"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert found["difference_interval"] == pytest.approx([0.5, 0.5])  # whichever are drawn


def test_a_model_is_not_ahead_of_itself(answers):
    found = compared(answers[0], answers[0], "accuracy")
    assert found["difference"] == 0 and found["difference_interval"] == pytest.approx([0, 0])
    low, high = found["scratch_interval"]
    assert high - low > 0.04  # while each alone is uncertain
