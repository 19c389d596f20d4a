"""A run starts from another run, or from a folder, with its shape, parameters and tokenizer."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from research.commands.export import export as export_run
from research.config import Init, Mesh, check, to_json
from research.data.corpus import prepare
from research.data.tokenizer import Tokenizer, load, save, vocabulary
from research.interop import export, folder
from research.models.arch import base
from research.models.build import parameter_shapes
from research.models.heads import logits
from research.models.paths import flatten, unflatten
from research.report import logs
from research.train import checkpoint
from research.train.loop import train
from research.train.origin import like, parameters, rescaled, resolve
from research.train.restore import load_run, open_model
from research.types import UserError
from tests.train import small


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run, its folder, and its source of text."""
    where = tmp_path_factory.mktemp("origin")
    os.environ["TERCET_CACHE"] = str(where / "cache")
    source = small.text(where)
    run = dataclasses.replace(small.run("masked", source, steps=2, evaluate_every=0, evaluate_rows=0), mesh=Mesh(data=1))
    assert train(run, where / "first") == "done"
    yield run, where / "first", source
    del os.environ["TERCET_CACHE"]


def starting(first, path, **fields):
    run, _, _ = first
    return dataclasses.replace(run, name="second", init=Init(str(path), **fields), seed=1)


def headless(first, path):
    """Write the run's model without its head as a Hugging Face folder."""
    loaded = load_run(first[1])
    arch = base(loaded.run.arch)
    arch = dataclasses.replace(arch, pooler=False)
    body = {name: part for name, part in loaded.params.items() if name != "head"}
    words = vocabulary(loaded.tokenizer)
    export.write(path, arch, body, loaded.tokenizer, words, ModelCard("---\nlicense: mit\n---\n"))
    return path


def held(run):
    """Return the arrays that `run` starts from and the paths that are left fresh."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return parameters(run, jax.tree.map(lambda _: one, parameter_shapes(run.arch)))


def test_a_run_goes_on_from_the_parameters_of_another(first, tmp_path):
    run = starting(first, first[1])
    run = dataclasses.replace(run, arch=dataclasses.replace(run.arch, width=64, vocab_size=0, dropout=0.0))
    assert train(run, tmp_path / "second") == "done"
    before = [row for row in logs.read(first[1]) if row["kind"] == "evaluation"][-1]
    after = [row for row in logs.read(tmp_path / "second") if row["kind"] == "evaluation"][0]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-6) and after["step"] == 0
    resolved = logs.read_run(tmp_path / "second")["resolved"]
    assert resolved["arch"]["width"] == first[0].arch.width and resolved["arch"]["dropout"] == 0.0
    assert resolved["data"]["tokenizer"]["path"] == str(first[1] / "tokenizer")


def test_a_run_starts_from_the_best_of_another_as_commands_do(first, tmp_path):
    run = dataclasses.replace(first[0], name="evaluated", save_every=1)
    assert train(run, tmp_path / "run") == "done"
    held_at = {step: flatten(load_run(tmp_path / "run", str(step)).params) for step in (1, 2)}
    for costs, expected in (((1.0, 2.0), 1), ((2.0, 1.0), 2), ((None, None), 2)):
        for step, cost in zip((1, 2), costs, strict=True):
            at = tmp_path / "run" / "checkpoints" / str(step)
            checkpoint._write_manifest(at, {**checkpoint._read_manifest(at), "cost": cost})
        given, _ = held(resolve(starting(first, tmp_path / "run")))
        for path, leaf in given.items():
            np.testing.assert_array_equal(leaf, held_at[expected][path], err_msg=path)
        assert any((held_at[1][path] != held_at[2][path]).any() for path in given)


@pytest.mark.slow
def test_a_resumed_run_does_not_need_the_parameters_it_started_from(first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first[1], copy)
    run = starting(first, copy)
    assert train(run, tmp_path / "second") == "done"
    shutil.rmtree(copy / "checkpoints")
    (copy / "run.json").unlink()
    longer = dataclasses.replace(run, steps=3)
    assert train(longer, tmp_path / "second", allow_changes=True) == "done"


def test_a_base_model_gets_a_fresh_head(first, tmp_path):
    run = resolve(starting(first, headless(first, tmp_path / "base")))
    assert run.arch.head_transform and run.arch.head_bias and not run.arch.pooler
    given, fresh = held(run)
    assert fresh and all(path.startswith("head/") for path in fresh)
    for path, leaf in flatten(load_run(first[1]).params).items():
        assert (path in given) != path.startswith("head/")
        if path in given:
            np.testing.assert_array_equal(given[path], leaf, err_msg=path)


def test_positions_are_kept_or_resized(first, tmp_path):
    path = headless(first, tmp_path / "base")
    other = dataclasses.replace(starting(first, path).arch, max_length=100)
    kept = resolve(dataclasses.replace(starting(first, path), arch=other))
    assert kept.arch.max_length == 64
    resized = resolve(dataclasses.replace(starting(first, path, positions="resize"), arch=other))
    assert resized.arch.max_length == 100
    table = np.asarray(held(resized)[0]["encoder/positions/embedding"])
    original = np.asarray(held(kept)[0]["encoder/positions/embedding"])
    np.testing.assert_array_equal(table, np.concatenate([original, original[:36]]))


def test_rescaled_embeddings_are_as_large_as_fresh_ones_and_make_the_same_function(first, tmp_path):
    grown = {**load_run(first[1]).params}
    run = resolve(starting(first, first[1], rescale=True))
    path = {name: leaf * (3 if name.endswith("embedding") else 1) for name, leaf in flatten(grown).items()}
    found = rescaled(path, run.arch)
    assert float(np.sqrt(np.mean(np.square(found["tokens/embedding"])))) == pytest.approx(0.02, rel=1e-5)
    tokens = np.arange(40).reshape(2, 20) % run.arch.vocab_size
    model = load_run(first[1]).model
    before, after = (logits(model, unflatten(leaves), tokens=tokens) for leaves in (path, found))
    np.testing.assert_allclose(after, before, atol=2e-4)
    given, _ = held(run)
    assert float(np.sqrt(np.mean(np.square(given["tokens/embedding"])))) == pytest.approx(0.02, rel=1e-5)
    for without in ({"embedding_norm": False}, {"head_transform": False}):
        with pytest.raises(UserError, match=r"init\.rescale is for BERT"):
            check(dataclasses.replace(run, arch=dataclasses.replace(run.arch, **without)), resolved=True)
    with pytest.raises(UserError, match=r"init\.path is empty"):
        check(dataclasses.replace(run, init=Init(rescale=True)))


def test_an_exported_run_opens_as_the_run_does(first, tmp_path):
    loaded = load_run(first[1])
    words = vocabulary(load(str(first[1] / "tokenizer")))
    export.write(tmp_path / "out", loaded.run.arch, loaded.params, loaded.tokenizer, words, ModelCard("---\nlicense: mit\n---\n"))
    opened = open_model(str(tmp_path / "out"))
    for path, leaf in flatten(opened.params).items():
        np.testing.assert_array_equal(leaf, flatten(loaded.params)[path], err_msg=path)
    assert opened.reader.objective is None and open_model(str(first[1])).reader.objective == first[0].objective
    (tmp_path / "out" / export.RECORD).write_text(json.dumps(to_json(loaded.run)))
    assert open_model(str(tmp_path / "out")).reader.objective == first[0].objective
    with pytest.raises(UserError, match="is no run"):
        open_model(str(tmp_path / "out"), "best")
    assert folder.load(tmp_path / "out").arch.structure == "encoder"


def test_what_is_not_there_is_refused(first, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        resolve(starting(first, tmp_path / "nothing"))


def test_a_folder_without_a_tokenizer_is_refused_unless_one_is_named(first, tmp_path):
    path = headless(first, tmp_path / "base")
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="has no tokenizer: name that of the model with --data.tokenizer.path"):
        resolve(starting(first, path))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [Mesh(data=1), Mesh(data=2, fsdp=2), Mesh(data=1, fsdp=2, tensor=2)], ids=str)
@pytest.mark.parametrize("name", ["causal", "prefix", "span_corruption", "denoising"])
def test_every_structure_starts_from_its_export_on_every_mesh(name, mesh, tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    fields = {"steps": 2, "evaluate_every": 0, "evaluate_rows": 0}
    run = dataclasses.replace(small.run(name, small.text(tmp_path), **fields), mesh=Mesh(data=1))
    assert train(run, tmp_path / "first") == "done"
    export_run(tmp_path / "first", load_run(tmp_path / "first"), tmp_path / "out")
    second = dataclasses.replace(run, init=Init(str(tmp_path / "out")), mesh=mesh, seed=1)
    assert train(second, tmp_path / "second") == "done"
    before = [row for row in logs.read(tmp_path / "first") if row["kind"] == "evaluation"][-1]
    after = [row for row in logs.read(tmp_path / "second") if row["kind"] == "evaluation"][0]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert open_model(str(tmp_path / "out")).reader.objective == run.objective


def test_a_decoder_begins_as_what_it_starts_from_was_trained_to(first, tmp_path):
    from research.objectives.seq2seq import Seq2Seq

    for name, begin in (("denoising", "eos"), ("span_corruption", "pad")):
        run = small.run(name, first[2])
        run = dataclasses.replace(run, arch=dataclasses.replace(run.arch, vocab_size=512))
        (tmp_path / name).mkdir()
        shutil.copytree(first[1] / "tokenizer", tmp_path / name / "tokenizer")
        (tmp_path / name / "run.json").write_text(json.dumps({"configuration": {}, "resolved": to_json(run)}))
        second = dataclasses.replace(run, objective=Seq2Seq(), init=Init(str(tmp_path / name)))
        assert resolve(second).objective.begin == begin
        assert like(second, resolve(second)).objective == resolve(second).objective
        assert resolve(dataclasses.replace(second, objective=Seq2Seq(begin="pad"))).objective.begin == "pad"


def test_another_tokenizer_than_the_checkpoints_is_told(first, tmp_path, capsys):
    data = dataclasses.replace(first[0].data, tokenizer=dataclasses.replace(first[0].data.tokenizer, kind="character"))
    other = prepare(data, ("train",)).tokenizer
    save(other, tmp_path / "other")
    named = dataclasses.replace(data, tokenizer=Tokenizer(str(tmp_path / "other")))
    resolve(dataclasses.replace(starting(first, first[1]), data=named))
    assert "was trained with another tokenizer" in capsys.readouterr().err
    named = dataclasses.replace(data, tokenizer=Tokenizer(str(first[1] / "tokenizer")))
    resolve(dataclasses.replace(starting(first, first[1]), data=named))
    assert capsys.readouterr().err == ""
