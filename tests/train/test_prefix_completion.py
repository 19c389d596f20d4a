"""Completion as a prefix LM: prompts are read in both directions, answers are not, and packing changes nothing."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.records import Row, rows_of_file
from research.generate.decoding import generate
from research.generate.settings import Decoding
from research.models import preset
from research.models.attention import self_mask
from research.models.heads import logits
from research.models.build import initial_parameters
from research.models.transformer import Transformer
from research.objectives.completion import Completion
from research.tasks.prepare import encode_rows
from research.train.judged import judged
from research.train.loop import train
from research.train.loss import vocabulary_loss
from research.train.predict import open_predictor, predict
from research.train.restore import evaluated
from tests.tasks.tiny import coder
from tests.train import small_tasks

LENGTH = 40
WORDS = "the cat sat on mat who there a dog ran off".split()
BOTH = Completion("source", "target", "{source} :", target_length=8, bidirectional=True)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def read(objective, pairs):
    """Return the batched example of the rows that hold `pairs`, and their host arrays."""
    rows = [Row(f"f:{n}", n, {"source": source, "target": target}) for n, (source, target) in enumerate(pairs)]
    known = coder("bpe")
    table, wrong = encode_rows(objective, known, LENGTH, rows, "decoder", labelled=True)
    assert not wrong
    record = {name: table.arrays[name] for name in ("tokens", "segments", "answers")}
    return jax.vmap(lambda row: objective(None, row, known.known))(record), table


def ids(text):
    return coder("bpe").backend.encode(text, add_special_tokens=False).ids


@given(pairs, st.sampled_from([1, 3, 16]))
@settings(max_examples=10, deadline=None)
def test_prompts_are_seen_from_everywhere_in_their_document_and_answers_from_behind(pairs, per_row):
    example, table = read(dataclasses.replace(BOTH, per_row=per_row), pairs)
    eos = coder("bpe").known.eos
    mask = self_mask(LENGTH, example.inputs["segments"], causal=True, prefix=example.inputs["prefix"])
    mask, prefix, weights = np.asarray(mask)[:, 0], np.asarray(example.inputs["prefix"]), np.asarray(example.weights)
    met = 0
    for row, slots in enumerate(table.arrays["example"]):
        place = 0
        owner = np.full(LENGTH + 1, -1)  # the pair that each token is of
        prompt = np.zeros(LENGTH + 1, bool)
        scored = np.zeros(LENGTH)
        for number in slots[slots >= 0]:
            first, second = ids(f"{pairs[number][0]} :"), [*ids(pairs[number][1])[:7], eos]
            assert table.arrays["tokens"][row, place : place + len(first) + len(second)].tolist() == first + second
            owner[place : place + len(first) + len(second)] = number
            prompt[place : place + len(first)] = True
            scored[place + len(first) - 1 : place + len(first) + len(second) - 1] = 1
            place += len(first) + len(second)
            met += 1
        np.testing.assert_array_equal(prefix[row], prompt[:-1])
        np.testing.assert_array_equal(weights[row], scored)
        for i in range(LENGTH):
            for j in range(LENGTH):
                sees = owner[i] == owner[j] and (j <= i or (prompt[j] and owner[j] >= 0))
                assert mask[row, i, j] == sees
    assert met == len(pairs)


def test_prompts_of_a_causal_completion_have_no_prefix():
    example, _ = read(dataclasses.replace(BOTH, bidirectional=False), [("the cat", "a dog")])
    assert "prefix" not in example.inputs


@functools.cache
def decoder():
    arch = dataclasses.replace(preset("gpt2-nano"), width=32, mlp_width=64, layers=2, max_length=64)
    arch = dataclasses.replace(arch, vocab_size=coder("bpe").known.size)
    params = jax.tree.map(lambda leaf: 5 * leaf, initial_parameters(arch, jax.random.key(0)))  # attends to something
    return Transformer(arch), params  # of two blocks: in one alone nothing reads what a prompt's tokens made of it


@jax.jit
def loss(params, example):
    """Return the gradient of the loss of an example, and its sums."""
    model, _ = decoder()

    def total(params):
        hidden = model.apply({"params": params}, **example.inputs)
        sums = vocabulary_loss(hidden, params["tokens"]["embedding"], None, example.targets, example.weights)
        return sums.total, sums

    return jax.grad(total, has_aux=True)(params)


PAIRS = [("the cat sat", "a dog"), ("who", "the dog ran off"), ("a mat on the cat", "there"), ("dog", "dog dog")]


def test_pairs_that_share_a_row_have_the_loss_and_gradient_of_rows_of_their_own():
    packed, apart = dataclasses.replace(BOTH, per_row=16), dataclasses.replace(BOTH, per_row=1)
    (together, table), (alone, _) = read(packed, PAIRS), read(apart, PAIRS)
    assert table.count < len(alone.targets) == len(PAIRS)
    _, params = decoder()
    (slope, one), (same, other) = loss(params, together), loss(params, alone)
    assert one.weight == other.weight and one.correct == other.correct
    assert float(one.nll) == pytest.approx(float(other.nll), rel=1e-5)
    norm = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(same))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * norm), slope, same)
    none = together._replace(inputs=together.inputs | {"prefix": np.zeros_like(together.inputs["prefix"])})
    assert abs(float(loss(params, none)[1].nll) - float(one.nll)) > 1e-3  # the prefix is no decoration


def test_what_is_behind_is_read_in_prompts_and_not_in_answers():
    model, params = decoder()
    states = jax.jit(lambda inputs: model.apply({"params": params}, **inputs)[0])
    inputs = [read(BOTH, [each])[0].inputs for each in (("dog on mat", "a cat ran"), ("dog on cat", "a cat ran"))]
    first, other = (np.asarray(states(each)) for each in inputs)
    assert np.abs(first[0] - other[0]).max() > 1e-4  # the first token knows the prompt's last
    later = read(BOTH, [("dog on mat", "a cat sat")])[0].inputs
    differs = np.flatnonzero(np.asarray(inputs[0]["tokens"])[0] != np.asarray(later["tokens"])[0])[0]
    last = np.asarray(states(later))
    np.testing.assert_allclose(first[:differs], last[:differs], atol=1e-5)
    assert np.abs(first[differs] - last[differs]).max() > 1e-4


@pytest.mark.slow
def test_a_prefix_completion_is_trained_judged_and_told_as_it_is_scored(tmp_path):
    folder = small_tasks.data(tmp_path)
    run = small_tasks.run("completion", folder, steps=12, evaluate_every=0, save_every=0)
    run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, bidirectional=True))
    assert train(run, tmp_path / "run") == "done"
    made = evaluated(tmp_path / "run", "best", "test")
    assert made.scores["perplexity"] == pytest.approx(np.exp(made.scores["loss"]))
    decoding = Decoding(max_new_tokens=6)
    found = judged(made, decoding, 4)
    predictor = open_predictor(str(tmp_path / "run"))
    assert predictor.reader.bidirectional
    rows = {row.fields["text"]: row for row in rows_of_file(folder / "test.jsonl")}
    told = list(predict(predictor, [rows[each["source"]] for each in found.told], decoding))
    assert [each["predicted"] for each in told] == [each["predicted"] for each in found.told]
    # What a text scores as it is made is what it scores as a target, its prompt a prefix.
    model, params, reader, size = predictor.model, predictor.params, predictor.reader, predictor.reader.vocabulary.size
    prompts = [reader.record(predictor.objective, each)[0] for each in found.told]
    answers = generate(model, params, prompts, reader.settings(decoding), bidirectional=True, size=size)
    for prompt, (answer,), each in zip(prompts, answers, told, strict=True):
        tokens = np.array([[*prompt.tokens, *answer.tokens]], np.int32)
        prefix = np.arange(tokens.shape[1])[None] < len(prompt.tokens)
        scores = logits(model, params, tokens=tokens, prefix=prefix)[0, len(prompt.tokens) - 1 : -1, :size]
        picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(scores)), np.array(answer.tokens)[:, None], axis=1)
        assert each["score"] == pytest.approx(float(picked.sum()), abs=1e-3)
        assert answer.score == pytest.approx(each["score"], abs=1e-4)
