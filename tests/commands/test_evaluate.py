"""`evaluate`: what it asks for, and how the scores are shown."""

import dataclasses
import json
import sys
import types

import pytest

from research.config import to_json
from research.data.sources import Source
from research.models.arch import with_head
from tests.train import small, small_tasks

SCORES = {
    "loss": 3.21987,
    "perplexity": 25.0251,
    "accuracy": 0.4321,
    "scored": 1234567,
    "bits_per_byte": 1.25,
    "unigram_loss": 6.5,
}


@pytest.fixture
def calls(monkeypatch):
    """Put a recorder in the evaluator's place."""
    seen = []

    def evaluated(folder, checkpoint, split, source, before):
        seen.append((folder, checkpoint, split, source))
        if source:  # of a task
            before({"read": 3, "examples": 3, "unlabelled": 0, "rows": 1, "per_row": 3.0, "real": 0.5})
        return types.SimpleNamespace(scores=dict(SCORES), fingerprint="f", units=None)

    monkeypatch.setitem(sys.modules, "research.train.restore", types.SimpleNamespace(evaluated=evaluated))
    return seen


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    return tmp_path / "run"


def test_best_on_validation_is_the_default(run, calls, command):
    status, out, err = command("evaluate", run)
    assert (status, err, calls) == (0, "", [(run, "best", "validation", None)])
    for label, value in [
        ("loss (nats a scored token)", "3.2199"),
        ("perplexity", "25.0251"),
        ("accuracy on scored tokens", "0.4321"),
        ("bits per byte", "1.2500"),
        ("tokens scored", "1,234,567"),
        ("loss of the training unigram", "6.5000"),
    ]:
        assert any(line.strip().startswith(label) and line.strip().endswith(value) for line in out.splitlines()), label


def test_json_is_one_line_of_what_was_found(run, calls, command):
    status, out, _ = command("evaluate", run, "--checkpoint", "40", "--split", "test", "--json")
    assert status == 0 and calls == [(run, "40", "test", None)]
    assert out.count("\n") == 1 and json.loads(out) == SCORES


def test_any_source_with_any_of_its_fields(run, calls, command):
    assert command("evaluate", run, "--source", "x.jsonl", "--source.column", "body", "--source.weight=2")[0] == 0
    source = calls[0][3]
    assert (source.path, source.column, source.weight) == ("x.jsonl", "body", 2.0)


def test_of_a_file_all_is_scored_unless_a_split_is_named(run, calls, command, tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    for asked, split, shown in (((), "train", {"split": "all"}), (("--split", "test"), "test", {})):
        _, out, err = command("evaluate", run, "--source", tmp_path / "x.jsonl", "--json", *asked)
        assert err.startswith(f"{shown.get('split', split)}: 3 examples in 1 rows of 3.0, 50.0% real tokens\n")
        assert calls[-1][2] == split and calls[-1][3].holdout == (0.0 if shown else Source("x").holdout)
        assert json.loads(out) == SCORES | shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: run"),
        (["{run}", "--checkpoint", "worst"], "--checkpoint: 'worst' is not best (by its evaluations"),
        (["{run}", "--checkpoint", "-3"], "--checkpoint: "),
        (["{run}", "--chekpoint", "best"], "unknown flag --chekpoint: did you mean --checkpoint?"),
        (["{run}", "--split", "all"], "--split: invalid choice: 'all'"),
        (["{run}", "--source.column", "x"], "give --source too"),
        (["{run}", "--source", "x", "--source.colum", "y"], "--source.colum: did you mean --source.column?"),
        (["{run}/none"], "there is no run.json"),
        (["{run}", "--limit", "3"], "--limit and --tokenised are for texts that are made: give --generate too"),
        (["{run}", "--generate", "--limit", "-3"], "--limit is -3: it must be at least 1, or 0 for all"),
    ],
)
def test_mistakes_are_one_line(arguments, message, run, calls, command):
    status, out, err = command("evaluate", *[argument.replace("{run}", str(run)) for argument in arguments])
    assert (status, out, calls) == (2, "", [])
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("pretrained", ["--generate"], "was trained on running text (Masked), leave them out"),
        ("pretrained", ["--out", "x"], "was trained on running text (Masked), leave them out"),
        ("classification", ["--generate"], "tells labels apart and makes no text: leave it out"),
        ("seq2seq", ["--out", "x"], "makes texts, so what it predicts has to be made: give --generate too"),
    ],
)
def test_what_a_run_cannot_do_is_refused_before_it_is_scored(task, flags, message, run, calls, command, tmp_path):
    held = small.run("masked", tmp_path) if task == "pretrained" else small_tasks.run(task, tmp_path)
    if task == "classification":
        held = dataclasses.replace(held, arch=with_head(held.arch, "sequence", 2))
    values = to_json(held)
    (run / "run.json").write_text(json.dumps({"configuration": values, "resolved": values}))
    status, out, err = command("evaluate", run, *flags)
    assert (status, out, calls) == (2, "", []) and message in err and err.count("\n") == 1


def test_what_was_found_of_a_runs_own_split_is_kept_for_reports(run, calls, command):
    assert command("evaluate", run, "--split", "test")[0] == 0
    kept = json.loads((run / "scores" / "test.json").read_text())
    assert kept["fingerprint"] == "f" and kept["checkpoint"] == "best" and kept["split"] == "test"
    assert kept["perplexity"] == SCORES["perplexity"] and kept["units"] is None
    assert command("evaluate", run, "--source", "x.jsonl", "--split", "validation")[0] == 0
    assert [path.name for path in (run / "scores").iterdir()] == ["test.json"]  # other text is no split of the run's
