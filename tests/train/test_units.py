"""Losses token by token and summed are what loops over rows and positions say."""

import math
from collections import Counter

import numpy as np
import pytest

from research.data.batches import Rows
from research.data.packing import Corpus
from research.train import units
from research.train.units import Losses

LENGTH = 4
SIZES = (11, 9, 6)  # of the corpora: the last row of one is full, those of the others are not
DOCUMENTS = ([0, 3, 4, 9], [0, 8], [0, 2])  # where they begin


def corpus(size, begins, seed):
    draw = np.random.default_rng(seed)
    starts = np.isin(np.arange(size), begins).astype(np.uint8)
    sizes = draw.integers(0, 6, size).astype(np.uint16)
    return Corpus("made", draw.integers(0, 7, size).astype(np.uint16), starts, sizes, {})


@pytest.fixture
def rows():
    parts = [corpus(*each, seed) for seed, each in enumerate(zip(SIZES, DOCUMENTS, strict=True))]
    return Rows(corpora=parts, length=LENGTH, lookahead=1)


@pytest.fixture
def losses(rows):
    """What is left of an evaluation in batches of 4: every row's losses, some of them not scored."""
    draw = np.random.default_rng(9)
    made = units.empty(rows, LENGTH)
    for start in range(0, rows.count, 4):
        index = np.arange(start, start + 4)
        nll = draw.gamma(2, 2, (4, LENGTH)).astype(np.float32)
        made.add(np.where(index < rows.count, index, rows.count), (nll, (draw.random((4, LENGTH)) < 0.8)))
    return made


def one_by_one(losses, rows):
    """Yield (corpus, token, nll, weight) of every token, read off the rows one position after the other."""
    row = 0
    for which, corpus in enumerate(rows.corpora):
        yield which, 0, 0.0, 0.0
        token = 1
        while token < len(corpus.tokens):
            for position in range(LENGTH):
                if token < len(corpus.tokens):
                    yield which, token, losses.nll[row, position], losses.weights[row, position]
                    token += 1
            row += 1
    assert row == rows.count


def test_padding_rows_are_left_out_and_what_is_not_scored_has_no_loss(rows, losses):
    assert losses.nll.shape == (rows.count, LENGTH) and rows.count % 4  # the last batch was padded
    assert (losses.nll[losses.weights == 0] == 0).all() and (losses.nll[losses.weights > 0] > 0).all()
    assert 0 < losses.weights.mean() < 1
    before = Losses(losses.nll.copy(), losses.weights.copy())
    losses.add(np.full(2, rows.count), (np.ones((2, LENGTH)), np.ones((2, LENGTH))))
    np.testing.assert_array_equal(losses, before)


def test_by_token_is_each_tokens_own_loss(rows, losses):
    expected = np.array([(nll, weight) for _, _, nll, weight in one_by_one(losses, rows)])
    found = units.by_token(losses, rows)
    assert found.nll.shape == (sum(SIZES),)
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)


def test_sums_over_documents_are_those_of_a_loop(rows, losses, monkeypatch):
    monkeypatch.setattr(units, "FEW", 8)
    nll, weight, documents = Counter(), Counter(), []
    for which, token, loss, scored in one_by_one(losses, rows):
        if rows.corpora[which].starts[token]:
            documents.append((which, token))
        nll[documents[-1]] += float(loss) * float(scored)
        weight[documents[-1]] += float(scored)
    found = units.by_document(units.by_token(losses, rows), rows)
    assert found["kind"] == "document" and len(documents) == 8
    assert found["nll"] == pytest.approx([nll[each] for each in documents], abs=1e-4)
    assert found["weight"] == [weight[each] for each in documents]


def test_few_documents_are_cut_into_blocks_of_tokens(rows, losses, monkeypatch):
    monkeypatch.setattr(units, "BLOCK", 5)
    tokens = units.by_token(losses, rows)
    found = units.by_document(tokens, rows)
    assert found["kind"] == "block" and len(found["nll"]) == -(-sum(SIZES) // 5)
    assert found["weight"][1] == tokens.weights[5:10].sum()
    assert sum(found["nll"]) == pytest.approx(float((tokens.nll * tokens.weights).sum()), abs=1e-3)


def test_right_answers_are_examples_of_the_same_weight(monkeypatch):
    found = units.by_example(np.array([True, False, True]))
    assert found == {"kind": "example", "right": [1, 0, 1], "weight": [1, 1, 1]}
    monkeypatch.setattr(units, "MOST", 2)
    assert units.by_example(np.array([True, False, True])) is None


def test_sums_over_rows_are_those_of_a_loop(losses):
    found = units.by_row(losses)
    assert found["kind"] == "row" and units.by_row(losses, "example") == {**found, "kind": "example"}
    assert found["nll"] == pytest.approx([sum(map(float, row)) for row in losses.nll], abs=1e-4)
    assert found["weight"] == [float(sum(row)) for row in losses.weights]


def test_too_many_units_are_not_kept(rows, losses, monkeypatch):
    tokens = units.by_token(losses, rows)
    monkeypatch.setattr(units, "FEW", 1)
    monkeypatch.setattr(units, "MOST", 8)
    assert units.by_document(tokens, rows) and units.by_row(losses) is not None
    monkeypatch.setattr(units, "MOST", 6)
    assert units.by_document(tokens, rows) is None and units.by_row(losses) is None


def test_scores_are_those_of_a_loop(rows, losses):
    unigram = np.linspace(0.5, 3.5, 7)
    total = count = spelled = baseline = 0
    for which, token, loss, scored in one_by_one(losses, rows):
        if scored:
            total, count = total + float(loss), count + 1
            spelled += int(rows.corpora[which].bytes[token])
            baseline += unigram[rows.corpora[which].tokens[token]]
    found = units.scores(units.by_token(losses, rows), rows, unigram)
    assert found == pytest.approx(
        {
            "loss": total / count,
            "perplexity": math.exp(total / count),
            "scored": count,
            "bits_per_byte": total / math.log(2) / spelled,
            "unigram_loss": baseline / count,
        }
    )
    assert "unigram_loss" not in units.scores(units.by_token(losses, rows), rows)
