"""Scores of texts are sacrebleu's and rouge_score's, whatever the number of references."""

import gzip
import json

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from research.report import intervals
from research.tasks.text_scores import ROUGE, distinct, rouge, scores
from research.types import UserError

WORDS = ["the", "cat", "cats", "sat", "on", "a", "mat", ".", ",", "running", "Katze"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
EXAMPLES = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=6)


def corpus(seed=0, n=40):
    """Predictions that share words with one to three references."""
    generator = np.random.default_rng(seed)
    predictions, references = [], []
    for _ in range(n):
        words = generator.choice(WORDS, size=generator.integers(4, 12)).tolist()
        edited = [[w if generator.random() < 0.7 else generator.choice(WORDS) for w in words] for _ in range(3)]
        predictions.append(" ".join(words))
        references.append([" ".join(text) for text in edited[: generator.integers(1, 4)]])
    return predictions, references


def padded(references):
    most = max(map(len, references))
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]


@settings(deadline=None, max_examples=15)
@given(EXAMPLES)
def test_scores_are_those_of_the_libraries(examples):
    predictions, references = map(list, zip(*examples, strict=True))
    found = scores(predictions, references, tokenised=True)
    streams = padded(references)
    assert found["bleu"] == sacrebleu.metrics.BLEU().corpus_score(predictions, streams).score
    assert found["tokenised_bleu"] == sacrebleu.metrics.BLEU(tokenize="none").corpus_score(predictions, streams).score
    assert found["chrf"] == sacrebleu.metrics.CHRF().corpus_score(predictions, streams).score
    scorer = RougeScorer(ROUGE, use_stemmer=True)
    for name in ROUGE:
        each = [[scorer.score(text, p)[name].fmeasure for text in r] for p, r in examples]
        assert found[name] == pytest.approx(np.mean([np.mean(values) for values in each]))
        assert found[f"{name}_best"] == pytest.approx(np.mean([max(values) for values in each]))
        assert found[f"{name}_best"] == pytest.approx(
            np.mean([scorer.score_multi(r, p)[name].fmeasure for p, r in examples])
        )
    assert found["exact_match"] == np.mean([p in r for p, r in examples])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_signatures_name_the_settings():
    found = scores(*corpus(), tokenised=True)
    version = sacrebleu.__version__
    assert found["bleu_signature"] == f"nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert found["tokenised_bleu_signature"] == f"nrefs:var|case:mixed|eff:no|tok:none|smooth:exp|version:{version}"
    assert found["chrf_signature"] == f"nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    one = scores(["a cat"], [["a cat"]])
    assert one["chrf_signature"].startswith("nrefs:1|") and "tokenised_bleu" not in one


def test_intervals_are_those_of_scoring_resampled_texts():
    predictions, references = corpus()
    found = scores(predictions, references)
    metrics = {"bleu": sacrebleu.metrics.BLEU(), "chrf": sacrebleu.metrics.CHRF()}
    slow = {name: [] for name in metrics}
    for drawn in intervals.resamples(len(predictions), 60):  # the first of those that were drawn
        at = np.repeat(np.arange(len(predictions)), drawn)
        texts, streams = [predictions[i] for i in at], padded([references[i] for i in at])
        for name, metric in metrics.items():
            slow[name].append(metric.corpus_score(texts, streams).score)
    for name, values in slow.items():
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
        np.testing.assert_allclose([low, high], np.quantile(values, [0.025, 0.975]), atol=0.25 * (high - low))
    low, high = found["rouge1_interval"]
    values = rouge(predictions, references)["rouge1"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.3 * half)
    assert found == scores(predictions, references) != scores(predictions, references, seed=1)


def test_resampled_statistics_are_scores_of_the_resampled_texts(monkeypatch):
    predictions, references = corpus(1, 12)
    (drawn,) = intervals.resamples(12, 1, seed=5)
    monkeypatch.setattr("research.tasks.text_scores.resampled_sums", lambda values, seed: drawn[None] @ values)
    found = scores(predictions, references)
    at = np.repeat(np.arange(12), drawn)
    expected = scores([predictions[i] for i in at], [references[i] for i in at])
    for name in ("bleu", "chrf", *ROUGE, "exact_match", "length_ratio"):
        assert found[f"{name}_interval"] == pytest.approx([expected[name]] * 2)


def test_what_is_counted_by_hand():
    found = scores([" a cat\n", "the mat", ""], [["a cat"], ["mat", "the cat sat"], [""]])
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["length_ratio"] == pytest.approx((1 + 2 / 2 + 0) / 3)
    assert found["rouge1"] == pytest.approx((1 + (2 / 3 + 2 / 5) / 2 + 0) / 3)
    assert found["rouge1_best"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["distinct_1"] == 1 and found["distinct_2"] == 1
    assert distinct(["a b a b", "a b"], 1) == 2 / 6 and distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct(["a", ""], 2) == 0
    assert scores(["cats running"], [["cat run"]])["rouge2"] == 1  # stems
    lines = scores(["sat the cat\na mat"], [["a mat\nsat the cat"]])
    assert lines["rougeLsum"] == 1 > lines["rougeL"]
    assert scores([""], [["a cat"]])["bleu"] == 0


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="2 predictions for 1 examples"):
        scores(["a", "b"], [["a"]])
    with pytest.raises(UserError, match="no examples"):
        scores([], [])
    for bare in ([], "b"):
        with pytest.raises(UserError, match="example 1 has no list of references"):
            scores(["a", "b"], [["a"], bare])


def test_real_summaries_with_several_references(data_folder):
    with gzip.open(data_folder / "dialogsum" / "test.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines][:60]
    references = [record["targets"] for record in records]
    assert {len(texts) for texts in references} == {3}
    found = scores([texts[0] for texts in references], references)
    assert found["exact_match"] == found["rougeL_best"] == 1 > found["rougeL"]  # annotators differ
    assert found["bleu"] == pytest.approx(100) and found["chrf"] == pytest.approx(100)
    references = [texts[:1] for texts in references]
    found = scores([texts[0] for texts in references], references)
    assert found["bleu"] == pytest.approx(100) and found["chrf"] == pytest.approx(100)
    assert found["rougeL"] == found["exact_match"] == found["length_ratio"] == 1
    found = scores([" ".join(record["source"].split()[:20]) for record in records], references)
    assert 0 < found["rouge2"] < found["rouge1"] < 1 and 0 < found["bleu"] < 50
