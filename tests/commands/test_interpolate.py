"""`interpolate`: runs become one row of a report, no worse than any of them; what cannot be mixed is refused in a line."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from research.commands import main as door
from research.config import Mesh, Optimizer
from research.data.sources import Source
from research.models.ladder import Recurrent
from research.models.ngram import Ngram
from research.report import cells, comparable, logs
from research.report.runs import load
from research.train.interpolate import seed
from research.train.loop import train
from research.train.restore import evaluated
from tests.report import made
from tests.train import small

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a run of single words with a cache, a run of pairs, and a recurrent run, all on one small text."""
    folder = tmp_path_factory.mktemp("runs")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    run = small.run("causal", small.text(folder), steps=0)
    held = dataclasses.replace(run.data.sources[0], holdout_test=0.1)
    data = dataclasses.replace(run.data, sources=(held,), length=16, order="stream")
    run = dataclasses.replace(run, data=data, mesh=Mesh(data=1), evaluate_every=0, evaluate_rows=0, save_every=0)
    ngrams = {"cached": Ngram(order=1, cache=0.2), "pairs": Ngram(order=2)}
    for name, arch in ngrams.items():
        train(dataclasses.replace(run, name=name, arch=arch), folder / name)
    lstm = dataclasses.replace(run, name="lstm", arch=Recurrent(width=32, layers=1, init_range=0.3), seed=3, steps=40)
    train(dataclasses.replace(lstm, optimizer=Optimizer(learning_rate=3e-2)), folder / "lstm")
    yield folder
    del os.environ["TERCET_CACHE"]


@pytest.fixture(scope="module")
def mixture(runs):
    """Folder of the mixture of the run of single words and the recurrent one, and what the command printed."""
    out = io.StringIO()
    with contextlib.chdir(runs), contextlib.redirect_stdout(out):
        assert door.main(["interpolate", "cached", "lstm", "--out", "mix", "--json"]) == 0
    assert out.getvalue().count("\n") == 1
    return runs / "mix", json.loads(out.getvalue())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_each_token_has_the_weighted_mean_of_its_probabilities(split, runs, mixture):
    folder, told = mixture
    parts = [evaluated(runs / name, "best", split) for name in ("cached", "lstm")]
    weights = [part["weight"] for part in told["parts"]]
    probs = sum(w * np.exp(-part.tokens.nll[1:].astype(np.float64)) for w, part in zip(weights, parts, strict=True))
    kept = json.loads((folder / "scores" / f"{split}.json").read_text())
    assert kept["loss"] == pytest.approx(-np.log(probs).mean(), rel=1e-9)
    assert kept["perplexity"] == pytest.approx(math.exp(kept["loss"])) == told[split]["perplexity"]
    assert 0.05 < min(weights) and sum(weights) == pytest.approx(1)
    ratios = [part.scores["bits_per_byte"] / part.scores["loss"] for part in parts]
    assert ratios == pytest.approx([kept["bits_per_byte"] / kept["loss"]] * 2)
    for name in ("scored", "unigram_loss"):
        assert kept[name] == pytest.approx(parts[0].scores[name])
    assert kept["fingerprint"] == parts[0].fingerprint and kept["checkpoint"] == "best" and kept["split"] == split
    assert kept["units"]["weight"] == parts[0].units["weight"]
    assert sum(kept["units"]["nll"]) == pytest.approx(kept["loss"] * kept["scored"], rel=1e-5)


def test_the_mixture_is_no_worse_than_its_best_part_where_its_weights_are_fitted(mixture):
    told = mixture[1]
    assert told["validation"]["perplexity"] < min(part["validation"]["perplexity"] for part in told["parts"])


def test_the_folder_says_what_it_is_made_of(runs, mixture):
    folder, told = mixture
    record, (cached, lstm) = logs.read_run(folder), load([runs / "cached", runs / "lstm"], "test")
    assert record["configuration"]["name"] == "cached + lstm" and record["configuration"]["seed"] == 3
    assert record["parameters"] == cached.facts["parameters"] + lstm.facts["parameters"]
    assert record["flops_per_step"] is None
    assert [(part["folder"], part["configuration"], part["checkpoint"], part["step"]) for part in record["parts"]] == [
        ("cached", cached.hash, "best", 0), ("lstm", lstm.hash, "best", 40)
    ]  # fmt: skip
    assert [part["weight"] for part in record["parts"]] == [part["weight"] for part in told["parts"]]
    for name in ("tokenizer", "train", "validation"):
        assert record["fingerprints"][name] == cached.facts["fingerprints"][name]
    evaluation, end = logs.read(folder)
    assert evaluation["loss"] == told["validation"]["loss"] and end["kind"] == "end"
    assert end["tokens"] == cached.end["tokens"] + lstm.end["tokens"]
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "metrics.jsonl", "run.json", "scores/test.json", "scores/validation.json"
    ]  # fmt: skip


def test_a_report_has_a_row_for_it_and_tests_it_against_its_parts(runs, mixture, command, tmp_path):
    for name in ("cached", "lstm"):
        assert command("evaluate", runs / name, "--split", "test")[0] == 0
    status, out, _ = command("report", runs / "cached", runs / "lstm", mixture[0], "--out", tmp_path / "report")
    assert status == 0
    table = csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines())
    perplexities = {row["name"]: float(row["mean"]) for row in table}
    assert perplexities["cached + lstm"] == pytest.approx(mixture[1]["test"]["perplexity"])
    assert set(perplexities) == {"cached", "lstm", "cached + lstm"}
    page = (tmp_path / "report" / "table.md").read_text()
    assert "a mixture: training FLOPs are told of its parts" in page and "counted: no updates" in page  # why neither has FLOPs
    tests = json.loads((tmp_path / "report" / "statistics.json").read_text())
    assert len(tests) == 2 and all(test["over"] == "documents" and test["not_tested"] is None for test in tests)


def test_people_are_shown_a_table(runs, command, tmp_path):
    folders = [runs / name for name in ("cached", "pairs")]
    status, out, err = command("interpolate", *folders, "--out", tmp_path / "mix", "--split", "validation")
    assert (status, err) == (0, "") and f"2 runs -> {tmp_path / 'mix'}" in out
    words = [line.split() for line in out.splitlines() if line.strip()]
    assert words[0] == ["model", "weight", "validation", "perplexity"]
    shown = {line[0]: line[1:] for line in words[2:5]}
    assert set(shown) == {"cached", "pairs", "mixture"}
    assert float(shown["cached"][0]) + float(shown["pairs"][0]) == pytest.approx(1, abs=1e-4)
    assert float(shown["mixture"][-1]) <= float(shown["pairs"][1]) < float(shown["cached"][1])
    assert [path.name for path in (tmp_path / "mix" / "scores").iterdir()] == ["validation.json"]
    _, _, err = command("report", tmp_path / "mix", "--out", tmp_path / "report")
    assert "note: cached + pairs: mix is a mixture not scored on test: interpolate its parts again, with --split test" in err


def test_mixtures_that_differ_by_seeds_alone_are_one_cell(tmp_path, monkeypatch):
    """Of made folders: no model is read, only what run.json of a mixture says."""
    from research.train.interpolate import configuration

    folders = []
    for number in range(3):
        kn = made.run(tmp_path / f"{number}" / "kn5", "kn5", arch={"model": "n-gram", "order": 5}, log_every=10 + number)
        lstm = made.run(tmp_path / f"{number}" / "lstm", "lstm", number)
        values = configuration(load([kn, lstm], "test"), "best")
        mix = made.run(tmp_path / f"{number}" / "mix", "mix", number, loss=4.4 + number / 10)
        (mix / "run.json").write_text(json.dumps(json.loads((mix / "run.json").read_text()) | {"resolved": values}))
        folders += [lstm, mix]
    grid = cells.arrange(load(folders, "test"), "test")
    comparable.check(grid)
    assert [len(grid.cells[row, (), "perplexity"].runs) for row in grid.row_keys] == [3, 3]
    other = made.run(tmp_path / "other", "lstm", 0, optimizer__learning_rate=1.0)
    kn = tmp_path / "0" / "kn5"
    first, second = (configuration(load([kn, each], "test"), "best") for each in (tmp_path / "0" / "lstm", other))
    assert first["arch"] != second["arch"] and first["name"] == second["name"]
    assert seed(load([tmp_path / "1" / "lstm", tmp_path / "2" / "lstm"], "test")) == "1 + 2"


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "{mix}"],
        ["evaluate", "{mix}", "--generate"],
        ["generate", "{mix}", "--prompt", "a"],
        ["fill-mask", "{mix}", "--prompt", "a"],
        ["predict", "{mix}", "{text}", "--out", "{new}"],
        ["export", "{mix}", "{new}"],
        ["export", "{mix}", "{new}", "--adapter"],
        ["interpolate", "{mix}", "{runs}/pairs", "--out", "{new}"],
    ],
)
def test_what_needs_a_model_says_that_it_is_a_mixture(arguments, runs, mixture, command, tmp_path):
    places = {"mix": mixture[0], "text": runs / "text.txt", "new": tmp_path / "new", "runs": runs}
    status, out, err = command(*[argument.format(**places) for argument in arguments])
    assert (status, out) == (2, "") and not (tmp_path / "new").exists()
    assert err == f"error: {mixture[0]} is a mixture of cached, lstm, and has no model of its own: give one of these\n"


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_nothing_is_trained_in_the_folder_of_a_mixture(name, experiment, mixture, command, tmp_path, monkeypatch):
    folder = mixture[0] if name == "train" else tmp_path / "sweep" / "seed=0"
    if name == "sweep":
        shutil.copytree(mixture[0], folder)
    out = folder if name == "train" else folder.parent
    status, printed, err = command(name, experiment, "--seed", *(["0"] if name == "train" else ["0", "1"]), "--out", out)
    assert (status, printed) == (2, "")
    assert err == f"error: {folder} is a mixture of cached, lstm, and has no model of its own: choose another --out\n"


def test_what_cannot_be_mixed_is_refused_before_anything_is_computed(runs, command, tmp_path, monkeypatch):
    monkeypatch.setattr("research.train.interpolate.evaluated", lambda *_: pytest.fail("evaluated"))
    cached, pairs = runs / "cached", runs / "pairs"
    masked = made.run(tmp_path / "masked", "masked", objective={"name": "masked", "rate": 0.15})
    late = made.run(tmp_path / "late", "late", ended=False)
    for arguments, message in [
        ([cached], "cached alone is no mixture: give at least two runs"),
        ([cached, pairs, cached], "cached is given twice: leave one out"),
        ([cached, masked], "masked has the objective masked, which is no likelihood of the next token"),
        ([cached, late], "late is unfinished at step 800 of 2,000"),
        ([cached, tmp_path / "none"], "no run in"),
        ([cached, pairs, "--checkpoint", "worst"], "--checkpoint: 'worst' is not best"),
        ([cached, pairs, "--split", "all"], "--split: invalid choice: 'all'"),
    ]:
        status, out, err = command("interpolate", *arguments, "--out", tmp_path / "new")
        assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
        assert message in err and not (tmp_path / "new").exists()
    assert "is not empty: choose another folder" in command("interpolate", cached, pairs, "--out", runs)[2]


def test_other_tokens_or_another_text_are_refused_with_both_runs(runs, command, tmp_path, monkeypatch):
    monkeypatch.setattr("research.train.interpolate.evaluated", lambda *_: pytest.fail("evaluated"))
    run = small.run("causal", runs / "text.txt", steps=0)
    run = dataclasses.replace(run, arch=Ngram(order=1))
    tokenizer = dataclasses.replace(run.data.tokenizer, size=300)
    words = dataclasses.replace(run.data, tokenizer=tokenizer)
    kept = dataclasses.replace(run.data.tokenizer, path=str(runs / "pairs" / "tokenizer"))
    text = dataclasses.replace(run.data, tokenizer=kept, sources=(Source(str(runs / "text.txt"), holdout=0.3),))
    for name, data, what in (("words", words, "tokenizers"), ("text", text, "validation text")):
        train(dataclasses.replace(run, data=data), tmp_path / name)
        status, out, err = command("interpolate", runs / "pairs", tmp_path / name, "--out", tmp_path / "new")
        assert (status, out) == (2, "") and err.count("\n") == 1 and not (tmp_path / "new").exists()
        assert err.startswith(f"error: {runs / 'pairs'} and {tmp_path / name} have different {what} (fingerprints ")


def test_runs_that_score_other_tokens_are_refused(runs, command, tmp_path, monkeypatch):
    from research.train import interpolate

    def fewer(folder, checkpoint, split):
        found = evaluated(folder, checkpoint, split)
        if folder.name == "pairs":
            found.tokens.weights[5] = 0
        return found

    monkeypatch.setattr(interpolate, "evaluated", fewer)
    status, _, err = command("interpolate", runs / "cached", runs / "pairs", "--out", tmp_path / "new")
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "new").exists()
    assert "cached and " in err and "pairs score different tokens of the validation split (" in err


def test_nothing_is_left_of_a_folder_that_cannot_be_written(runs, command, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("research.commands.evaluate.write_scores", full)
    status, _, err = command("interpolate", runs / "cached", runs / "pairs", "--out", tmp_path / "new")
    assert status == 2 and "No space left on device; choose another folder" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_loads_nothing_heavy():
    heavy = {"jax", "flax", "transformers", "datasets", "torch", "matplotlib", "scipy", "rich"}
    code = (
        "import sys, contextlib, io\nfrom research.commands.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['interpolate', '--help'])\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
