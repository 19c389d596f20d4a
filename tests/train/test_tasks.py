"""Tasks through the same session, step, loop, checkpoints and evaluator as pre-training; and what models say of records."""

import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from research.data.records import Row, rows_of_file
from research.generate.settings import Decoding
from research.report import logs
from research.tasks import text_scores
from research.train.judged import judged
from research.train.loop import train
from research.train.predict import open_predictor, predict
from research.train.restore import evaluate_run, evaluated, load_run, open_model
from research.types import UserError
from tests.train import small, small_tasks
from tests.train.kill import killed_before_saving

LABELLED = ("classification", "tagging")
WRITTEN = ("seq2seq", "completion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_tasks.data(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return the folder of a run of a task, trained when it is first asked for."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = tmp_path_factory.mktemp(name) / "run"
            fields = {"steps": 60, "evaluate_every": 0, "save_every": 0} if name == "classification" else {}
            assert train(small_tasks.run(name, folder, **fields), kept[name]) == "done"
        return kept[name]

    return of


@pytest.mark.parametrize(
    "name", ["classification", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tagging", *WRITTEN))]
)
def test_a_task_killed_and_resumed_is_bitwise_the_run_left_alone(name, folder, tmp_path):
    run = small_tasks.run(name, folder)
    assert train(run, tmp_path / "whole") == "done"

    with killed_before_saving(8):
        train(run, tmp_path / "parts")
    assert train(run, tmp_path / "parts") == "done"
    a, b = (load_run(tmp_path / part).params for part in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    timing = ("tokens_per_s", "seconds", "elapsed")
    rows = [
        [{k: v for k, v in row.items() if k not in timing} for row in logs.read(tmp_path / part)]
        for part in ("whole", "parts")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 12


def test_a_task_is_learned_and_recorded(trained, folder, capsys):
    run = trained("classification")
    rows = [row for row in logs.read(run) if row["kind"] == "evaluation"]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["accuracy"] > 0.9
    assert set(rows[-1]["labels"]) == {"cat", "none"} and "confusion" not in rows[-1] and "perplexity" not in rows[-1]
    assert rows[-1]["unigram_loss"] < np.log(2)  # the share of the labels, not of the vocabulary
    record = logs.read_run(run)["resolved"]
    assert record["objective"]["labels"] == ["cat", "none"] and record["objective"]["text"] == "text"
    assert (record["arch"]["head"], record["arch"]["labels"], record["arch"]["head_transform"]) == ("sequence", 2, False)


@pytest.mark.parametrize("name", ["classification", "tagging"])
def test_evaluation_scores_what_is_predicted_whatever_the_batch(name, trained, folder):
    run = trained(name)
    made = evaluated(run, "best", "test")  # as predict takes it
    scores, found = made.scores, judged(made)
    assert found.scores.items() <= scores.items()
    lines = (folder / "test.jsonl").read_text().splitlines()
    told = {}
    for size in (1, 16):
        answers = list(predict(open_predictor(str(run), batch_size=size), rows_of_file(folder / "test.jsonl")))
        told[size] = [answer["predicted" if name == "classification" else "tags"] for answer in answers]
    gold = [json.loads(line)["label" if name == "classification" else "tags"] for line in lines]
    assert told[1] == told[16] and len(gold) == len(told[1]) == 40
    flat = (lambda x: x) if name == "classification" else (lambda x: list(itertools.chain(*x)))
    right = np.mean([a == b for a, b in zip(flat(gold), flat(told[1]), strict=True)])
    assert scores["accuracy"] == pytest.approx(right)
    assert all(each["predicted"] != each.get("label", each.get("tags")) for each in found.worst)


@pytest.mark.parametrize("name", ["seq2seq", pytest.param("completion", marks=pytest.mark.slow)])
def test_texts_are_scored_as_they_are_written(name, trained, folder):
    run = trained(name)
    decoding = Decoding(max_new_tokens=6)
    made = evaluated(run, "best", "test")
    found = judged(made, decoding, 5, True)
    assert found.scores["examples"] == 5 and {"bleu", "tokenised_bleu", "rougeL", "distinct_1"} <= set(found.scores)
    rows = {row.fields["text"]: row for row in rows_of_file(folder / "test.jsonl")}
    again = predict(open_predictor(str(run)), [rows[each["source"]] for each in found.told], decoding)
    assert [each["predicted"] for each in found.told] == [each["predicted"] for each in again]
    share = [text_scores.rouge([each["predicted"]], [each["references"]])["rougeL"][0] for each in found.worst]
    assert share == sorted(share) and len(share) == 5  # the worst first
    loss = made.scores
    assert "bleu" not in loss and loss["perplexity"] == pytest.approx(np.exp(loss["loss"]))
    prompted = open_model(str(run)).reader  # generate reads the same ids
    predictor = open_predictor(str(run))
    for each in found.told:
        assert prompted.prompt(each["source"]) == predictor.reader.record(predictor.objective, each)[0]


def test_bad_records_are_answered_with_what_is_wrong_and_the_others_stand(trained):
    predictor = open_predictor(str(trained("classification")))
    rows = [
        Row("f:1", 1, {"text": "a cat"}),
        Row("f:2", 2, {}, "f:2: not a JSON object"),
        Row("f:3", 3, {"text": 7, "other": 1}),
        Row("f:4", 4, {"text": ""}),
        Row("f:5", 5, {"text": "the dog"}),
    ]
    answers = list(predict(predictor, rows))
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5]
    assert answers[1]["error"] == "f:2: not a JSON object" and answers[2]["error"].startswith("f:3: column 'text'")
    alone = list(predict(predictor, [rows[0], rows[4]]))
    for answer, same in zip((answers[0], answers[4]), alone, strict=True):
        assert answer["predicted"] == same["predicted"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_entities_have_their_places_in_the_text(trained):
    predictor = open_predictor(str(trained("tagging")))
    text = "  Ann, the red cat: New York! " * 12  # longer than a row: windows
    (answer,) = predict(predictor, [Row("f:1", 1, {"text": text})])
    assert answer["words"] == text.replace(",", " ,").replace(":", " :").replace("!", " !").split()
    assert len(answer["tags"]) == len(answer["words"])
    for entity in answer["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
    (answer,) = predict(predictor, [Row("f:1", 1, {"tokens": ["Ann", "sits"]})])
    joined = "Ann sits"
    assert [joined[each["start"] : each["end"]] for each in answer["entities"]] == [e["text"] for e in answer["entities"]]


@pytest.mark.slow
def test_averaged_checkpoints_are_the_mean_of_the_newest(trained, folder, tmp_path):
    run = small_tasks.run("classification", folder, steps=3, save_every=1, evaluate_every=0, keep=3)
    train(run, tmp_path / "run")
    parts = [load_run(tmp_path / "run", str(step)).params for step in (2, 3)]
    mean = load_run(tmp_path / "run", "average:2").params
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-6), mean, *parts)
    with pytest.raises(UserError, match="checkpoint 'average:9': .* keeps 3, so give average:1 to average:3"):
        load_run(tmp_path / "run", "average:9")


@pytest.mark.slow
def test_a_classifier_starts_from_a_pretrained_run_and_tells_other_labels_apart_anew(trained, folder, tmp_path, capsys):
    first = trained("classification")
    start = small_tasks.run("classification", folder, steps=1, evaluate_every=0, save_every=0)
    again = dataclasses.replace(start, init=dataclasses.replace(start.init, path=str(first)))
    train(again, tmp_path / "same")
    assert "fresh" not in capsys.readouterr().out
    loss = [row for row in logs.read(tmp_path / "same") if row["kind"] == "evaluation"][0]["loss"]
    assert loss == pytest.approx(evaluate_run(first, "latest", "validation")["loss"], rel=1e-5)
    other = dataclasses.replace(again, objective=dataclasses.replace(again.objective, labels=("none", "cat")))
    train(other, tmp_path / "other")
    assert "fresh: classifier/bias, classifier/kernel" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pretrained_model_answers_no_records(tmp_path):
    run = small.run("masked", small.text(tmp_path), steps=1, evaluate_every=0, save_every=0)
    train(dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, data=1)), tmp_path / "run")
    with pytest.raises(UserError, match=r"running text \(Masked\) and answers no records: use fill-mask, or"):
        open_predictor(str(tmp_path / "run"))
    assert pathlib.Path(tmp_path / "run").exists()


def test_an_exported_classifier_names_its_labels_and_answers_the_same(trained, folder, tmp_path):
    from research.commands.export import export

    run = trained("classification")
    export(run, load_run(run), tmp_path / "exported")
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "none"} and config["problem_type"] == "single_label_classification"
    rows = list(rows_of_file(folder / "test.jsonl"))
    assert list(predict(open_predictor(str(tmp_path / "exported")), rows)) == list(predict(open_predictor(str(run)), rows))
