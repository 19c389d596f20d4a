"""`evaluate` of runs of tasks: what it prints, and the files that it writes."""

import json
import os

import numpy as np
import pytest

from research.train.loop import train
from tests.train import small_tasks

FIGURES = [f"{name}.{suffix}" for name in ("confusion", "reliability") for suffix in ("pdf", "png")]
FILES = ["errors.jsonl", "predictions.jsonl", "scores.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run of a task, trained when it is first asked for, and the folder of its records."""
    where = tmp_path_factory.mktemp("tasks")
    records, kept, before = small_tasks.data(where), {}, os.environ.get("TERCET_CACHE")
    os.environ["TERCET_CACHE"] = str(where / "cache")

    def of(name):
        if name not in kept:
            kept[name] = where / name  # as tests/train/test_tasks.py has them: what they compile is in the same cache
            train(small_tasks.run(name, records), kept[name])
        return kept[name], records

    yield of
    del os.environ["TERCET_CACHE"]
    if before is not None:
        os.environ["TERCET_CACHE"] = before


def test_training_says_what_is_known_of_the_test_split(tmp_path, monkeypatch, capsys):
    class Enough(Exception):
        pass

    def enough(*_):
        raise Enough

    def said(*records):
        with open(folder / "test.jsonl", "a") as file:
            file.writelines(json.dumps(each) + "\n" for each in records)
        with pytest.raises(Enough):
            train(small_tasks.run("classification", folder), tmp_path / "run")
        return capsys.readouterr().out.splitlines()

    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("research.train.loop.save_tokenizer", enough)
    folder = small_tasks.data(tmp_path)
    counts = [line.split(":")[0] for line in said()]
    assert set(counts) == {"train", "validation"} == {*counts[::2]}  # examples and labels; nothing odd
    told = said({"text": "a bird", "label": "bird"}, {"text": "a dog", "label": -1}, {"text": "a cat", "label": None})
    assert told[-2:] == [
        "test: 2 have no label: mend or remove them before it is scored",
        "test: never met in training, so never told right but by chance: bird (1)",
    ]
    (folder / "test.jsonl").write_text("")
    hidden = said(*[{"text": "a dog", "label": -1}] * 3)
    assert hidden[-1] == "test: none of 3 has a label, as where test labels are hidden: it cannot be scored"
    assert len(hidden) == len(counts) + 1 and not any("bird" in line for line in hidden)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "label", "figures"),
    [("classification", "label", FIGURES), pytest.param("tagging", "tags", [], marks=pytest.mark.slow)],
)
def test_labels_are_scored_and_written_into_files(name, label, figures, trained, command, tmp_path):
    run, records = trained(name)
    out = tmp_path / "new" / "scores"
    as_json = ["--json"] * (name == "tagging")
    status, shown, err = command("evaluate", run, "--split", "test", "--out", out, *as_json)
    assert err.startswith("test: 40 examples in ") and ("test: none " in err or "test: O " in err), err
    assert status == 0 and sorted(path.name for path in out.iterdir()) == sorted(FILES + figures)
    begun = {"pdf": b"%PDF", "png": b"\x89PNG"}
    assert all((out / figure).read_bytes()[:4] == begun[figure[-3:]] for figure in figures)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["split"] == "test" and scores["accuracy_interval"][0] <= scores["accuracy"]
    if as_json:
        assert json.loads(shown) == scores
    else:
        assert f"accuracy {scores['accuracy']:.4f} [" in " ".join(shown.split())
    told = lines(out / "predictions.jsonl")
    gold = [each[label] for each in lines(records / "test.jsonl")]
    assert [each[label] for each in told] == gold and told[0]["place"] == f"{records / 'test.jsonl'}:1"
    wrong = [each for each in told if each["predicted"] != each[label]]
    errors = lines(out / "errors.jsonl")
    assert len(errors) == len(wrong) > 0 and all(each in wrong for each in errors)
    if name == "classification":
        assert scores["accuracy"] == pytest.approx(1 - len(wrong) / len(told))
        assert all(each["predicted"] == max(each["probabilities"], key=each["probabilities"].get) for each in told)
        right = [int(each["predicted"] == each[label]) for each in told]
        kept = json.loads((run / "scores" / "test.json").read_text())["units"]
        assert kept == {"kind": "example", "right": right, "weight": [1] * len(told)}
    else:
        assert all(len(each["predicted"]) == len(each["words"]) for each in told)
    status, _, err = command("evaluate", run, "--split", "test", "--out", out)
    assert status == 2 and str(out) in err and err.count("\n") == 1


def test_texts_that_are_made_are_scored_and_written_into_files(trained, command, tmp_path):
    run, records = trained("seq2seq")
    out = tmp_path / "scores"
    flags = ["--generate", "--limit", "8", "--tokenised", "--decoding.max-new-tokens", "6", "--json"]
    status, shown, err = command("evaluate", run, "--split", "test", *flags, "--out", out)
    assert err.startswith("test: 40 examples in ")
    assert status == 0 and sorted(path.name for path in out.iterdir()) == FILES
    scores = json.loads((out / "scores.json").read_text())
    assert json.loads(shown) == scores and scores["examples"] == 8
    assert {"perplexity", "bleu", "tokenised_bleu", "chrf", "rougeL", "exact_match", "distinct_1"} <= scores.keys()
    kept = json.loads((run / "scores" / "test.json").read_text())
    nll, weight = (np.array(kept["units"][name]) for name in ("nll", "weight"))
    assert kept["units"]["kind"] == "row" and len(nll) == kept["rows"] < 40  # some share one
    assert weight.sum() == kept["scored"]
    assert nll.sum() / weight.sum() == pytest.approx(kept["loss"], rel=1e-3)
    told = lines(out / "predictions.jsonl")
    gold = [each["target"] for each in lines(records / "test.jsonl")]
    assert [each["references"] for each in told] == [[target] for target in gold[::5]]  # 8 of 40, spread over all
    assert all(isinstance(each["predicted"], str) for each in told)
    errors = lines(out / "errors.jsonl")
    assert sorted(map(json.dumps, errors)) == sorted(map(json.dumps, told))
