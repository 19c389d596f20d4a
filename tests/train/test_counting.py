"""Runs of n-gram models: trained, kept and evaluated as others are, with the scores that the model itself gives."""

import dataclasses
import math
import os

import numpy as np
import pytest

from research.config import from_json
from research.data.corpus import prepare
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.models import ngram_file
from research.models.ngram import Ngram
from research.report import logs
from research.train.counting import MODEL
from research.train.loop import train
from research.train.restore import evaluated, load_run
from research.types import UserError
from tests.train import small


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    yield small.text(folder)
    del os.environ["TERCET_CACHE"]


def make(source, *, data=None, **arch):
    run = small.run("causal", source, steps=0)
    held = dataclasses.replace(run.data.sources[0], holdout_test=0.1)
    data = dataclasses.replace(run.data, **{"sources": (held,)} | (data or {}))
    return dataclasses.replace(run, name="counted", arch=Ngram(**{"order": 3} | arch), data=data)


@pytest.fixture(scope="module")
def run(source):
    return make(source, cache=0.1, cache_sizes=(20,))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "counted"
    assert train(run, folder) == "done"
    return folder


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_the_model_summed_by_hand(run, folder, split):
    data = prepare(run.data, ("train", split))
    (text,), (corpus,) = data.corpora["train"], data.corpora[split]
    model = ngram_file.load(folder / MODEL)
    nll = -model.score(corpus.tokens, corpus.starts)
    total, count = math.fsum(nll[1:]), len(nll) - 1  # before the first token nothing stands
    shares = np.bincount(text.tokens[1:], minlength=model.size) + 1
    baseline = [-math.log(shares[token] / shares.sum()) for token in corpus.tokens[1:]]
    found = evaluated(folder, "best", split)
    expected = {
        "loss": total / count,
        "perplexity": math.exp(total / count),
        "bits_per_byte": total / math.log(2) / sum(corpus.bytes[1:].tolist()),
        "unigram_loss": math.fsum(baseline) / count,
        "scored": count,
    }
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert found.scores["loss"] < found.scores["unigram_loss"] - 1  # it has learned something
    np.testing.assert_allclose(found.tokens.nll[1:], nll[1:])
    assert (found.tokens.nll[0], found.tokens.weights[0]) == (0, 0) and found.tokens.weights[1:].all()
    assert len(found.units["nll"]) == corpus.starts.sum() and sum(found.units["nll"]) == pytest.approx(total, abs=0.1)


def test_a_run_is_logged_as_one_evaluation_and_an_end(run, folder):
    evaluation, end = logs.read(folder)
    scores = evaluated(folder, "best", "validation").scores
    assert {name: evaluation[name] for name in ("kind", "step", "split")} == {
        "kind": "evaluation", "step": 0, "split": "validation"
    }  # fmt: skip
    assert evaluation["loss"] == scores["loss"] and evaluation["unigram_loss"] == scores["unigram_loss"]
    record, model = logs.read_run(folder), ngram_file.load(folder / MODEL)
    assert end["kind"] == "end" and end["tokens"] == model.facts["tokens"] == record["estimated"]["tokens"]
    assert record["parameters"] == model.parameters and record["flops_per_step"] is None
    assert from_json(record["configuration"]) == run
    assert from_json(record["resolved"]).arch == dataclasses.replace(run.arch, vocab_size=model.size)
    assert (model.cache, model.cache_sizes) == (0.1, (20,))


def test_the_same_command_again_does_nothing_and_another_configuration_is_refused(run, source, folder, capsys):
    before = (folder / MODEL).stat().st_mtime_ns
    assert train(run, folder) == "done" and "is done" in capsys.readouterr().out
    with pytest.raises(UserError, match="another configuration"):
        train(make(source, order=2), folder)
    assert (folder / MODEL).stat().st_mtime_ns == before


def test_words_that_the_training_text_has_not_are_possible(source, tmp_path):
    words = Tokenizer(kind="word", size=20_000, sentinels=0, template="eos", min_frequency=1)
    train(make(source, data={"tokenizer": words}), tmp_path)
    found = evaluated(tmp_path, "best", "test")
    assert found.prepared.reports and found.prepared.corpora["test"][0].meta["unknown"] > 10
    assert found.scores["loss"] < 12  # of an impossible word it would be infinite


def test_a_text_with_impossible_words_has_an_infinite_perplexity_rather_than_a_large_one(source, tmp_path, capsys):
    train(make(source, smoothing="maximum-likelihood"), tmp_path)
    assert capsys.readouterr().out.endswith("validation perplexity inf\n")
    assert evaluated(tmp_path, "best", "test").scores["perplexity"] == math.inf
    assert logs.read(tmp_path)[0]["perplexity"] is None  # JSON has no infinity


def test_an_order_that_no_document_is_long_enough_for_is_not_counted(source, tmp_path, capsys):
    line = dataclasses.replace(make(source).data.sources[0], boundary="line", holdout_test=0.0)
    train(make(source, data={"sources": (line,)}, order=10**6), tmp_path)
    order = from_json(logs.read_run(tmp_path)["resolved"]).arch.order
    assert 10 < order < 1000
    assert f"no document has n-grams of more than {order} words: the model is of that order" in capsys.readouterr().out


def test_scores_of_a_model_that_is_counted_anew_are_dropped(run, tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "test.json").write_text("{}")
    train(run, tmp_path)
    assert not list((tmp_path / "scores").iterdir())


def test_jelinek_mercer_is_fitted_on_validation(source, tmp_path):
    train(make(source, smoothing="jelinek-mercer", order=2), tmp_path)
    weights = logs.read_run(tmp_path)["estimated"]["weights"]
    assert len(weights) == 2 and 0.1 < weights[1] < 0.99  # fitted on the training text it would be 0.9999


def test_what_needs_checkpoints_says_that_there_are_none(folder):
    with pytest.raises(UserError, match="holds an n-gram model, which has no checkpoints: evaluate and generate read it"):
        load_run(folder)


@pytest.mark.parametrize(
    ("arch", "fields", "message"),
    [
        ({"order": 0}, {}, "arch.order is 0: it must be at least 1"),
        ({"smoothing": "good-turing"}, {}, "arch.smoothing is 'good-turing': it must be one of maximum-likelihood"),
        ({"cache": 1.0}, {}, "arch.cache is 1.0: it must be at least 0 and less than 1"),
        ({"arpa": "/nowhere/x.arpa", "order": 5}, {}, "/nowhere/x.arpa: cannot be read"),
        ({}, {"steps": 8}, "steps given, but an n-gram model is counted in one pass: leave it 0"),
        ({}, {"objective": "masked"}, "reads from left to right: objective must be Causal"),
    ],
)
def test_configurations_that_cannot_work_are_refused(arch, fields, message, source, tmp_path):
    if "objective" in fields:
        fields = {"objective": small.run("masked", source).objective}
    with pytest.raises(UserError, match=message) as error:
        train(dataclasses.replace(make(source, **arch), **fields), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / logs.RUN).exists()


def test_two_sources_are_refused(source, tmp_path):
    with pytest.raises(UserError, match="an Ngram model is of one source, and data.sources names 2: keep one"):
        train(make(source, data={"sources": (Source(str(source)), Source(str(source)))}), tmp_path)


def test_a_text_without_tokens_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text(" \n\n \n")
    with pytest.raises(UserError, match=r"text\.txt.*no document"):
        train(make(tmp_path / "text.txt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_an_end_token_is_refused(source, tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"<unk>": 0, "the": 1, "of": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path / "words")
    with pytest.raises(UserError, match="the tokenizer has no token that ends a text, which n-grams begin and end with"):
        train(make(source, data={"tokenizer": Tokenizer(path=str(tmp_path / "words"))}), tmp_path / "run")
