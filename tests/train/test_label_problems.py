"""Several labels, numbers and pairs of texts trained, evaluated, judged and told of new records, as one label is."""

import json

import numpy as np
import pytest

from research.commands.export import export
from research.data.records import Row, rows_of_file
from research.report import logs
from research.train.judged import judged
from research.train.loop import train
from research.train.predict import open_predictor, predict
from research.train.restore import evaluated, load_run
from tests.train import small_tasks

FIELDS = {"steps": 40, "evaluate_every": 0, "save_every": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_tasks.data(tmp_path_factory.mktemp("records"))


def records(folder):
    return [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]


def trained(name, folder, path):
    """Train a run; return what the test split says of it, twice, and what it tells of that split's records."""
    assert train(small_tasks.run(name, folder, **FIELDS), path) == "done"
    rows = logs.read(path)
    assert not any("accuracy" in row for row in rows if row["kind"] == "train") or name == "pairs"
    made = evaluated(path, "best", "test")
    told = list(predict(open_predictor(str(path), batch_size=3), rows_of_file(folder / "test.jsonl")))
    assert [answer["line"] for answer in told] == list(range(1, 41))
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] and "perplexity" not in made.scores
    return made, judged(made), told


def test_several_labels(folder, tmp_path):
    made, found, told = trained("multi_label", folder, tmp_path / "run")
    assert made.loaded.run.objective.labels == ("cat", "dog", "red") and made.loaded.run.arch.labels == 3
    gold = [set(each["several"]) for each in records(folder)]
    predicted = [answer["predicted"] for answer in told]
    right = [a == set(b) for a, b in zip(gold, predicted, strict=True)]
    assert made.scores["subset_accuracy"] == pytest.approx(np.mean(right))
    probabilities = np.array([list(answer["probabilities"].values()) for answer in told])
    hot = np.array([[name in each for name in ("cat", "dog", "red")] for each in gold])
    loss = -np.mean(np.where(hot, np.log(probabilities), np.log1p(-probabilities)))
    assert made.scores["loss"] == pytest.approx(loss, rel=1e-3) and "unigram_loss" not in made.scores
    assert found.scores.items() <= made.scores.items() and found.probabilities is None and found.gold is None
    assert [each["predicted"] for each in found.told] == predicted
    assert [set(each["label"]) for each in found.told] == gold and len(found.told) == 40
    assert len(found.worst) == sum(set(each["label"]) != set(each["predicted"]) for each in found.told)


@pytest.mark.slow
def test_numbers(folder, tmp_path):
    made, found, told = trained("regression", folder, tmp_path / "run")
    assert made.loaded.run.objective.labels == () and made.loaded.run.arch.labels == 1
    gold = np.array([each["number"] for each in records(folder)])
    predicted = np.array([answer["predicted"] for answer in told])
    assert set(told[0]) == {"line", "predicted"}
    assert made.scores["mean_squared_error"] == pytest.approx(np.mean((gold - predicted) ** 2), rel=1e-4)
    assert made.scores["loss"] == pytest.approx(made.scores["mean_squared_error"], rel=1e-4)
    assert made.scores["pearson"] > 0.5  # the number is of the text's length
    assert found.scores["spearman"] == made.scores["spearman"] and found.probabilities is None
    distances = [abs(each["label"] - each["predicted"]) for each in found.worst]
    assert distances == sorted(distances, reverse=True) and len(distances) == 40


def test_pairs_of_texts(folder, tmp_path):
    made, found, told = trained("pairs", folder, tmp_path / "run")
    loaded = made.loaded
    assert (loaded.run.objective.text, loaded.run.objective.pair) == ("text", "target")
    assert set(np.unique(made.prepared.table("test").arrays["types"])) == {0, 1}
    gold = [each["label"] for each in records(folder)]
    right = [a == b["predicted"] for a, b in zip(gold, told, strict=True)]
    assert made.scores["accuracy"] == pytest.approx(np.mean(right))
    assert found.probabilities.shape == (40, 2) and {"text", "pair", "label", "predicted"} <= set(found.told[0])
    predictor = open_predictor(str(tmp_path / "run"))
    row = Row("f:1", 1, {"text": "a red dog", "target": "a cat"})
    swapped = Row("f:2", 2, {"text": "a cat", "target": "a red dog"})
    alone = Row("f:3", 3, {"text": "a red dog"})
    first, other, missing = predict(predictor, [row, swapped, alone])
    assert first["probabilities"] != other["probabilities"] and "no column 'target'" in missing["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_label", "regression"])
def test_an_exported_folder_answers_the_same(name, folder, tmp_path):
    _, _, told = trained(name, folder, tmp_path / "run")
    export(tmp_path / "run", load_run(tmp_path / "run"), tmp_path / "exported")
    problem = json.loads((tmp_path / "exported" / "config.json").read_text())["problem_type"]
    assert problem == {"multi_label": "multi_label_classification"}.get(name, name)
    again = predict(open_predictor(str(tmp_path / "exported"), batch_size=3), rows_of_file(folder / "test.jsonl"))
    assert list(again) == told
