"""`export`: from a run's folder to one that `transformers` loads, and what it refuses before anything is loaded."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from research.commands import demo
from research.commands.export import export
from research.config import Mesh, from_json, to_json
from research.data.corpus import prepare
from research.data.tokenizer import Tokenizer, load
from research.interop import card
from research.keys import key
from research.models import ngram_file, preset
from research.models.arpa import read_arpa
from research.models.heads import logits
from research.models.ladder import FeedForward, Recurrent
from research.models.ngram import Ngram
from research.report.logs import read, read_run
from research.train.counting import MODEL
from research.train.evaluate import batches
from research.train.loop import train
from research.train.restore import evaluate_run, load_run
from research.train.session import open_session, rows_of
from research.train.step import examples
from tests.train import small


def transformers_model(folder, structure):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    auto = getattr(transformers, card.TASKS[structure].auto)
    model, found = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@pytest.fixture
def trained(experiment, command, tmp_path):
    """Folder of a run of four steps that kept an average of its parameters."""
    status, _, err = command("train", experiment, "--out", tmp_path / "run", "--ema", "0.5", "--mesh.data", "1")
    assert status == 0, err
    return tmp_path / "run"


def test_a_run_becomes_a_folder_that_transformers_loads(trained, command, tmp_path):
    torch = pytest.importorskip("torch")
    text = np.array([[9, 12, 7, 30, 8, 11]], np.int32)
    found = {}
    for name, flags in (("averaged", []), ("raw", ["--raw"])):
        status, out, err = command("export", trained, tmp_path / name, "--checkpoint", "best", *flags)
        assert status == 0 and err == "" and "AutoModelForCausalLM.from_pretrained" in out
        model = transformers_model(tmp_path / name, "decoder")
        with torch.no_grad():
            found[name] = model(torch.tensor(text).long()).logits.numpy()
        loaded = load_run(trained, raw=name == "raw")
        np.testing.assert_allclose(found[name], logits(loaded.model, loaded.params, tokens=text), rtol=0, atol=1e-5)
        readme = (tmp_path / name / "README.md").read_text()
        assert ("model-index" in readme) == (name == "averaged")
    assert np.abs(found["raw"] - found["averaged"]).max() > 1e-4


def test_the_demo_tells_whether_the_folder_has_the_same_loss(trained, capsys):
    last = [row for row in read(trained) if row["kind"] == "evaluation"][-1]["loss"]
    assert demo._exported(trained, last)
    assert capsys.readouterr().out.endswith(f"{last:.6f}: equal\n")
    shutil.rmtree(trained / "export")
    assert not demo._exported(trained, last * 1.0001)
    assert capsys.readouterr().out.endswith(": NOT EQUAL\n")


def test_raw_is_an_error_where_all_parameters_are(command, tmp_path):
    values = to_json(small.run("causal", tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"configuration": values, "resolved": values}))
    status, out, err = command("export", tmp_path / "run", tmp_path / "model", "--raw")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "kept no average of its parameters (ema and average are 0), all are raw: leave it out" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/run"], "the following arguments are required: folder"),
        (["{}/none", "{}/model"], "there is no run.json"),
        (["{}/run", "{}/model", "--checkpoint", "worst"], "--checkpoint: 'worst' is not best (by its evaluations"),
        (["{}/run", "{}/model", "--rwa"], "unknown flag --rwa: did you mean --raw?"),
        (["{}/run", "{}/run"], "run is not empty: choose another folder, or remove it first"),
        (["{}/run", "{}/run/run.json"], "run.json is not a folder"),
        (["{}/run", "."], "is the folder that you are in: name a new one"),
        (["{}/run", "{}/run/run.json/model"], "cannot write to FOLDER"),
        (["{}/run", "/proc/model"], "cannot write to FOLDER"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_loaded(arguments, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr("research.train.restore.load_run", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    status, out, err = command("export", *[argument.format(tmp_path) for argument in arguments])
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def counted(folder, data=None, **arch):
    """Count an n-gram run of 60 kB in `folder` and return its configuration."""
    run = small.run("causal", small.text(folder.parent), steps=0)
    run = dataclasses.replace(run, arch=Ngram(**{"order": 3} | arch), data=data or run.data)
    assert train(run, folder) == "done"
    return run


def test_an_n_gram_run_becomes_an_arpa_file_that_a_run_can_read(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    run = counted(tmp_path / "run")
    status, out, err = command("export", tmp_path / "run", tmp_path / "model")
    assert status == 0 and err == "" and f"n-grams of {tmp_path / 'run'} -> {tmp_path / 'model'}" in out
    held, tokenizer = ngram_file.load(tmp_path / "run" / MODEL), load(str(tmp_path / "model"))
    spellings = tokenizer.convert_ids_to_tokens(list(range(held.size)))
    found, _ = read_arpa(tmp_path / "model" / "model.arpa", spellings, held.eos)
    (corpus,) = prepare(run.data).corpora["validation"]
    scores = held.score(corpus.tokens, corpus.starts)
    np.testing.assert_allclose(found.score(corpus.tokens, corpus.starts), scores, rtol=1e-6, atol=1e-6)

    data = dataclasses.replace(run.data, tokenizer=Tokenizer(path=str(tmp_path / "model")))
    arpa = {"arpa": str(tmp_path / "model" / "model.arpa"), "order": 5}
    counted(tmp_path / "again", data, **arpa)
    assert from_json(read_run(tmp_path / "again")["resolved"]).arch.order == 3  # as the file says
    assert read(tmp_path / "again")[-1]["tokens"] is None  # of how many it was counted, the file does not say
    ours, theirs = (evaluate_run(tmp_path / name, "best", "validation") for name in ("run", "again"))
    names = ("loss", "scored", "bits_per_byte", "unigram_loss")
    assert {name: theirs[name] for name in names} == pytest.approx({name: ours[name] for name in names}, rel=1e-6)

    counted(tmp_path / "cached", data, cache=0.1, **arpa)
    cached = dataclasses.replace(held, cache=0.1, cache_sizes=Ngram().cache_sizes)
    loss = -cached.score(corpus.tokens, corpus.starts)[1:].mean()
    assert evaluate_run(tmp_path / "cached", "best", "validation")["loss"] == pytest.approx(loss, rel=1e-6)
    status, out, err = command("export", tmp_path / "cached", tmp_path / "none")
    assert (status, out) == (2, "") and "an ARPA file cannot hold a cache" in err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arch", "flags", "message"),
    [
        (Recurrent(), [], "holds a Recurrent model, which transformers has no class for"),
        (FeedForward(), [], "holds a FeedForward model, which transformers has no class for"),
        (Ngram(), ["--raw"], "--raw: {}/run holds an n-gram model, which has no parameters to average: leave it out"),
        (Ngram(), ["--adapter"], "--adapter: {}/run has adapter.method full, not lora: leave it out"),
    ],
)
def test_models_that_are_no_transformers(arch, flags, message, command, tmp_path):
    values = to_json(dataclasses.replace(small.run("causal", tmp_path), arch=arch))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"configuration": values, "resolved": values}))
    status, out, err = command("export", tmp_path / "run", tmp_path / "model", *flags)
    assert (status, out) == (2, "") and err.count("\n") == 1 and message.format(tmp_path) in err
    assert not (tmp_path / "model").exists()


CASES = {
    "bert": ("masked", "bert-nano"),
    "roberta": ("masked", "roberta-nano"),
    "gpt2": ("causal", "gpt2-nano"),
    "t5": ("span_corruption", "t5-nano"),
    "t5-v1.1": ("span_corruption", "t5-v1.1-nano"),
    "bart": ("denoising", "bart-nano"),
}


@pytest.mark.slow  # 30 seconds a case: two programs are compiled
@pytest.mark.parametrize("case", CASES)
def test_what_was_trained_here_has_the_same_loss_there(case, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    objective, name = CASES[case]
    run = small.run(objective, small.text(tmp_path), steps=50, evaluate_every=0, evaluate_rows=0, save_every=0, log_every=50)
    arch = dataclasses.replace(preset(name), width=32, mlp_width=64, layers=2, max_length=64)
    run = dataclasses.replace(run, arch=arch, mesh=Mesh(data=1))
    assert train(run, tmp_path / "run") == "done"
    loaded = load_run(tmp_path / "run")
    export(tmp_path / "run", loaded, tmp_path / "model")
    model = transformers_model(tmp_path / "model", arch.structure)

    session = open_session(run)
    rows = rows_of(session.run, session.prepared, "validation")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = [row["loss"] for row in logged if row["kind"] == "evaluation"]
    assert last < first - 0.3  # trained, not random

    nll = weight = 0.0
    for record, row in batches(rows, 32):
        keys = jax.vmap(lambda r: key(0, "evaluation", r))(row)
        made = jax.tree.map(np.array, examples(session.run, loaded.vocabulary, keys, record))
        inputs, targets, weights = made
        names = {"source": "input_ids", "source_segments": "attention_mask", "tokens": "decoder_input_ids"}
        if arch.structure != "encoder-decoder":
            names = {"tokens": "input_ids", "segments": "attention_mask"}
        batch = {theirs: torch.tensor(inputs[ours]).long() for ours, theirs in names.items()}
        batch["attention_mask"] = (batch["attention_mask"] > 0).long()
        with torch.no_grad():
            scores = model(**batch).logits.log_softmax(-1).numpy()
        if "select" in inputs:
            scores = np.take_along_axis(scores, inputs["select"][..., None], axis=1)
        nll -= float((np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0] * weights).sum(dtype=np.float64))
        weight += float(weights.sum())
    assert nll / weight == pytest.approx(last, rel=1e-4)
