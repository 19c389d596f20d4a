"""Evaluation scores what it says, the same for any batch size; every figure is found again by plain means."""

import dataclasses
import math
import os
from collections import Counter

import jax
import numpy as np
import pytest

from research.config import Mesh
from research.data.sources import documents
from research.models.heads import logits
from research.train.evaluate import batches, evaluator, unigram_nll
from research.train.session import open_session, rows_of
from tests.train import small

SIZES = {"causal": (7,), "masked": (4, 7)}  # besides the whole set in one batch; each is compiled


def random_parameters(shapes):
    """Return parameters drawn by numpy, which need no compiling as the run's own would."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jax.device_put(rng.normal(0, 0.1, x.shape).astype(x.dtype), x.sharding), shapes)


class Evaluated:
    """A random nano model, its validation rows, and its evaluators by their batch size."""

    def __init__(self, name, source):
        session = open_session(dataclasses.replace(small.run(name, source), mesh=Mesh(data=1)))
        self.run, self.prepared, self.trainer = session.run, session.prepared, session.trainer
        self.training, self.words = session.training, session.prepared.vocabulary
        self.rows = rows_of(self.run, self.prepared, "validation")
        self.params = random_parameters(self.trainer.parameters)
        self.evaluate = {
            size: evaluator(dataclasses.replace(self.run, batch_size=size), self.words, self.trainer)
            for size in (*SIZES[name], self.rows.count)
        }
        self.unigram = unigram_nll(self.run, self.words, self.training, self.run.arch.vocab_size)
        self.scores = {size: each(self.params, self.rows, 0, self.unigram) for size, each in self.evaluate.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    before = os.environ.get("TERCET_CACHE")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    yield small.text(folder)
    del os.environ["TERCET_CACHE"]
    if before is not None:
        os.environ["TERCET_CACHE"] = before


@pytest.fixture(scope="module")
def causal(source):
    return Evaluated("causal", source)


@pytest.fixture(scope="module")
def masked(source):
    return Evaluated("masked", source)


@pytest.fixture(params=["causal", "masked"])
def evaluated(request):
    return request.getfixturevalue(request.param)


def assert_close(scores, other):
    assert scores.keys() == other.keys() and scores["scored"] == other["scored"] > 0
    for name, value in scores.items():
        np.testing.assert_allclose(value, other[name], rtol=2e-6, err_msg=name)


def test_scores_do_not_depend_on_the_batch_size(evaluated):
    first, *others = evaluated.scores.values()
    for other in others:
        assert_close(first, other)
    assert abs(first["loss"] - math.log(evaluated.run.arch.vocab_size)) < 1  # not far from uniform
    assert first["perplexity"] == math.exp(first["loss"]) and 0 <= first["accuracy"] < 0.2
    assert first["unigram_loss"] < first["loss"]


def test_a_limit_scores_the_first_rows_alone(evaluated):
    found = [evaluate(evaluated.params, evaluated.rows, limit=5) for evaluate in evaluated.evaluate.values()]
    for other in found[1:]:
        assert_close(found[0], other)
    assert found[0]["scored"] < evaluated.scores[7]["scored"] and "unigram_loss" not in found[0]
    if evaluated.run.objective.likelihood:
        assert found[0]["scored"] == 5 * evaluated.run.data.length
    beyond = evaluated.evaluate[7](evaluated.params, evaluated.rows, evaluated.rows.count + 100, evaluated.unigram)
    assert beyond == evaluated.scores[7]


@pytest.mark.parametrize(("size", "limit"), [(4, 0), (7, 5), (4, 8)])
def test_batches_read_every_row_once_and_fill_up_with_padding(causal, size, limit):
    count = causal.rows.count
    chosen = np.arange(limit or count) * count // (limit or count)  # a limit takes rows from all over
    record = causal.rows.pick(chosen, with_bytes=True)
    found = list(batches(causal.rows, size, limit))
    assert all(each["tokens"].shape == (size, 33) and len(index) == size for each, index in found)
    index = np.concatenate([index for _, index in found])
    assert index[: len(chosen)].tolist() == chosen.tolist() and len(found) == -(-len(chosen) // size)
    for name, wanted in record.items():
        read = np.concatenate([each[name] for each, _ in found])
        np.testing.assert_array_equal(read[: len(wanted)], wanted)
        assert name == "tokens" or not read[len(wanted) :].any()


def test_causal_scores_every_token_but_the_first_as_plain_numpy_does(causal):
    tokens = np.asarray(causal.prepared.corpora["validation"][0].tokens, np.int64)
    scores = causal.scores[7]
    assert scores["scored"] == len(tokens) - 1

    rows = causal.rows.take(0, causal.rows.count)
    model = causal.trainer.model
    found = jax.jit(lambda p, t, s: logits(model, p, tokens=t, segments=s))(
        causal.params, rows["tokens"][:, :-1], rows["segments"][:, :-1]
    )
    found, targets, scored = np.asarray(found, np.float64), rows["tokens"][:, 1:], rows["segments"][:, 1:] > 0
    nll = np.log(np.exp(found).sum(-1)) - np.take_along_axis(found, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores["loss"], nll[scored].mean(), rtol=1e-5)
    np.testing.assert_allclose(scores["accuracy"], (found.argmax(-1) == targets)[scored].mean(), atol=2 / scored.sum())
    np.testing.assert_allclose(scores["unigram_loss"], causal.unigram[tokens[1:]].mean(), rtol=1e-5)


def test_masked_scores_its_rate_of_every_rows_ordinary_tokens(masked):
    rows = masked.rows.take(0, masked.rows.count)
    eligible = ((rows["segments"] > 0) & ~masked.words.special[rows["tokens"]]).sum(axis=1)
    assert masked.scores[7]["scored"] == sum(round(masked.run.objective.rate * int(n)) for n in eligible)
    assert "bits_per_byte" not in masked.scores[7]


def test_bits_per_byte_are_those_of_the_scored_text(causal):
    rows = causal.rows.take(0, causal.rows.count, with_bytes=True)
    corpus = causal.prepared.corpora["validation"][0]
    scored = (rows["segments"] > 0)[:, 1:]
    count = int(rows["bytes"][:, 1:][scored].sum())
    assert count == int(corpus.bytes[1:].sum(dtype=np.int64))
    (source,) = causal.run.data.sources
    text = sum(len(document.encode()) for document in documents(source, "validation"))
    assert count == text - int(corpus.bytes[0])  # nothing predicts the first token
    for scores in causal.scores.values():
        bits = scores["loss"] * scores["scored"] / math.log(2)
        np.testing.assert_allclose(scores["bits_per_byte"], bits / count, rtol=1e-9)


def test_the_causal_baseline_counts_the_training_tokens(causal):
    size = causal.run.arch.vocab_size
    counts = Counter(causal.prepared.corpora["train"][0].tokens[1:].tolist())
    total = sum(counts.values()) + size
    wanted = [-math.log((counts[token] + 1) / total) for token in range(size)]
    np.testing.assert_allclose(causal.unigram, wanted, rtol=1e-12)
    np.testing.assert_allclose(np.exp(-causal.unigram).sum(), 1)


def test_the_masked_baseline_counts_scored_tokens_alone(masked):
    rows = masked.training.take(0, masked.training.count)
    special = masked.words.special
    eligible = ((rows["segments"] > 0) & ~special[rows["tokens"]]).sum(axis=1)
    total = sum(round(masked.run.objective.rate * int(n)) for n in eligible) + masked.run.arch.vocab_size
    counts = np.exp(-masked.unigram) * total
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)  # whole numbers: the total is right
    np.testing.assert_allclose(counts[special], 1)  # never scored: only smoothing
    everything = Counter(rows["tokens"][rows["segments"] > 0].tolist())
    assert all(count - 1 <= everything[token] + 0.5 for token, count in enumerate(counts))
    assert counts.max() > 5
