"""ARPA files: what is written reads back with the same probabilities, here and in KenLM; damage is told by its line."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models import arpa
from research.models.arpa import read_arpa, write_arpa
from research.models.ngram import Ngram
from research.models.smoothing import estimate
from research.types import UserError
from tests.models.test_ngram import EOS, NEVER, SMOOTHINGS, VOCAB, array, made, text

SPELLINGS = ["a", "é", "[SEP]", "<unk>", "d", "<pad>"]  # the third ends sentences, the last is never predicted
SMOOTHED = SMOOTHINGS[1:]
SMALL = """
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.30103
-0.30103\t</s>
-0.60206\ta\t-0.1
-0.60206\tb\t0

\\2-grams:
-0.2 <s> a
-0.3 a </s>

\\end\\
"""


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(SMOOTHED), st.integers(1, 5), st.sampled_from([1, 3, 1 << 18]))
def test_a_file_reads_back_as_the_model_that_wrote_it(tmp_path_factory, data, smoothing, order, at_once):
    tokens = st.lists(st.integers(0, 4), min_size=1, max_size=50)
    model, other = made(data.draw(tokens), smoothing, order), array(data.draw(tokens))
    path = tmp_path_factory.mktemp("arpa") / data.draw(st.sampled_from(["model.arpa", "model.arpa.gz"]))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(arpa, "AT_ONCE", at_once)
        write_arpa(model, SPELLINGS, path)
        found, words = read_arpa(path)
        same, _ = read_arpa(path, SPELLINGS, EOS)
    np.testing.assert_allclose(same.score(other), model.score(other), rtol=1e-6, atol=1e-6)
    assert sorted(words) == sorted(["a", "é", "</s>", "<unk>", "d"]) and words[found.eos] == "</s>"
    ids = np.array([words.index("</s>" if at == EOS else SPELLINGS[at]) for at in range(5)])
    np.testing.assert_allclose(found.score(ids[other]), model.score(other), rtol=1e-6, atol=1e-6)
    assert (found.parameters, same.parameters) == (model.parameters, model.parameters)
    probs = np.exp(same.next_log_probs(other[:4]))
    assert probs.sum() == pytest.approx(1, abs=1e-5) and probs[NEVER] == 0


@pytest.mark.parametrize("smoothing", SMOOTHED)
@pytest.mark.parametrize("order", [2, 3, 5])
def test_kenlm_reads_what_is_written_and_gives_the_same_scores(tmp_path, smoothing, order):
    kenlm = pytest.importorskip("kenlm")
    model = made(text(), smoothing, order)
    write_arpa(model, SPELLINGS, tmp_path / "model.arpa")
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    for seed in range(5):
        read = [word for word in text(60, seed) if word != EOS]
        found = [prob for prob, *_ in theirs.full_scores(" ".join(SPELLINGS[word] for word in read))]
        np.testing.assert_allclose(np.array(found) * np.log(10), model.score(array([*read, EOS])), rtol=1e-5, atol=1e-6)


def test_a_word_that_is_not_there_is_the_unknown_one_whatever_the_tokenizer_calls_it(tmp_path):
    model, called = made(text(), "modified-kneser-ney", 3), [*SPELLINGS[:3], "[UNK]", *SPELLINGS[4:]]
    write_arpa(model, called, tmp_path / "model.arpa", unknown=3)
    written = (tmp_path / "model.arpa").read_text()
    assert "\t<unk>\t" in written and "[UNK]" not in written
    (tmp_path / "upper.arpa").write_text(written.replace("<unk>", "<UNK>"))
    other = array(text(60, 5))
    for name in ("model", "upper"):
        found, _ = read_arpa(tmp_path / f"{name}.arpa", called, EOS, unknown=3)
        np.testing.assert_allclose(found.score(other), model.score(other), rtol=1e-6, atol=1e-6)
    kenlm = pytest.importorskip("kenlm")
    read = [0, 3, 4, 3, 3, 1]
    words = " ".join("zebra" if word == 3 else SPELLINGS[word] for word in read)
    for train in (text(), [word for word in text() if word != 3]):  # with and without unknown words of its own
        model = made(train, "modified-kneser-ney", 3)
        write_arpa(model, called, tmp_path / "model.arpa", unknown=3)
        found = [prob for prob, *_ in kenlm.Model(str(tmp_path / "model.arpa")).full_scores(words)]
        np.testing.assert_allclose(np.array(found) * np.log(10), model.score(array([*read, EOS])), rtol=1e-5, atol=1e-6)


def test_n_grams_of_unknown_words_are_passed_over_where_the_vocabulary_has_none(tmp_path):
    unknown = SMALL.replace("ngram 1=4", "ngram 1=5").replace("ngram 2=2", "ngram 2=3")
    unknown = unknown.replace("\n\n\\2-grams:", "\n-2\t<unk>\t0\n\n\\2-grams:").replace("-0.3 a", "-0.5 a <unk>\n-0.3 a")
    (tmp_path / "small.arpa").write_text(unknown)
    for end, unk in ((2, None), (2, 2)):  # GPT-2's end is its unknown token
        model, _ = read_arpa(tmp_path / "small.arpa", ["a", "b", "</s>"], end, unk)
        found = model.score(np.array([0, 1, 2])) / np.log(10)
        np.testing.assert_allclose(found, [-0.2, -0.1 - 0.60206, -0.30103], rtol=1e-6)
    model, words = read_arpa(tmp_path / "small.arpa")
    assert words == ["</s>", "a", "b", "<unk>"] and model.score(np.array([1, 3]))[1] == pytest.approx(-0.5 * np.log(10))


def test_a_small_file_backs_off_as_it_says(tmp_path):
    (tmp_path / "small.arpa").write_text(SMALL)
    model, words = read_arpa(tmp_path / "small.arpa")
    assert words == ["</s>", "a", "b"]
    # <s> a, a b by backing off from a, b </s> by backing off from b
    found = model.score(np.array([1, 2, 0])) / np.log(10)
    np.testing.assert_allclose(found, [-0.2, -0.1 - 0.60206, -0.30103], rtol=1e-6)
    assert model.next_log_probs([])[2] / np.log(10) == pytest.approx(-0.60206 - 0.30103)


def test_every_place_where_a_file_is_cut_is_noticed(tmp_path):
    for cut in range(len(SMALL.rstrip())):
        (tmp_path / "cut.arpa").write_text(SMALL[:cut])
        with pytest.raises(UserError, match=r"cut\.arpa, line \d+: ") as error:
            read_arpa(tmp_path / "cut.arpa")
        assert "\n" not in str(error.value)
        within = cut > SMALL.index("\\data\\") + 5 and not SMALL[:cut].endswith("\n")
        assert not within or "cut short, fetch it anew" in str(error.value), SMALL[:cut]
    whole = gzip.compress(SMALL.encode())
    for cut in range(len(whole)):
        (tmp_path / "cut.arpa.gz").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"cut\.arpa\.gz, line \d+: "):
            read_arpa(tmp_path / "cut.arpa.gz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ngram 2=2", "ngram 2=3", r"line 15: '\\\\end\\\\' after 2 of the 3 2-grams that \\data\\ promises"),
        ("ngram 2=2", "ngram 2=1", r"line 13: here is '-0\.3 a </s>' instead of \\end\\: a wrong count"),
        ("ngram 1=4", "ngram 1=x", r"line 2: 'ngram 1=x' is not 'ngram 1=' and a number"),
        ("ngram 2=2", "ngram 3=2", r"line 3: 'ngram 3=2' is not 'ngram 2=' and a number"),
        ("-0.2 <s>", "zero <s>", r"line 12: 'zero' is no number"),
        ("-0.2 <s>", "nan <s>", r"line 12: 'nan' is no number"),
        ("-0.2 <s>", "0.2 <s>", r"line 12: '0\.2 <s> a': a probability above 1"),
        ("a\t-0.1", "a\t-0.1 b", r"line 8: '-0\.60206 a -0\.1 b' is not a number, 1 words and a number"),
        ("<s> a", "<s> a -0.2", r"line 12: '-0\.2 <s> a -0\.2' is not a number, 2 words"),
        ("<s> a", "<s> c", r"line 12: 'c' is not among the \\1-grams:"),
        ("<s> a", "</s> a", r"line 12: '-0\.2 </s> a': <s> can only come first"),
        ("<s> a", "a </s>", r"line 13: an n-gram that is there already"),
        ("-0.60206\tb\t0", "-0.60206\ta\t0", r"line 9: an n-gram that is there already"),
        ("-0.30103\t</s>", "-0.30103\tend", r"the \\1-grams: have no </s>"),
        ("\\2-grams:", "\\3-grams:", r"line 11: here is '\\\\3-grams:' instead of \\2-grams:"),
    ],
)
def test_damage_is_told_by_its_line(tmp_path, old, new, message):
    assert SMALL.count(old) == 1
    (tmp_path / "bad.arpa").write_text(SMALL.replace(old, new).lstrip("\n"))
    with pytest.raises(UserError, match=message.replace("line ", r"bad\.arpa, line ")):
        read_arpa(tmp_path / "bad.arpa")


def test_an_n_gram_without_its_history_is_told_by_its_line(tmp_path):
    third = "\\3-grams:\n-0.1 <s> a a\n-0.1 a b a\n\\end\\"
    three = SMALL.replace("ngram 2=2", "ngram 2=2\nngram 3=2").replace("\\end\\", third)
    (tmp_path / "bad.arpa").write_text(three)
    with pytest.raises(UserError, match=r"line 19: the n-gram's first words are no n-gram of the order before"):
        read_arpa(tmp_path / "bad.arpa")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("hello\n")
    with pytest.raises(UserError, match=r"line 2: the file ends here, without \\data\\: this is no ARPA file"):
        read_arpa(tmp_path / "text.txt")
    (tmp_path / "binary.arpa").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(range(256)))
    with pytest.raises(UserError, match=r"binary\.arpa, line \d+: the file ends here, without \\data\\: this is no ARPA"):
        read_arpa(tmp_path / "binary.arpa")
    (tmp_path / "text.gz").write_text("hello\n")
    with pytest.raises(UserError, match="cannot be read on"):
        read_arpa(tmp_path / "text.gz")
    with pytest.raises(UserError, match="check the path"):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "small.arpa").write_text(SMALL)
    with pytest.raises(UserError, match=r"'b' is not among the 3 words of the vocabulary"):
        read_arpa(tmp_path / "small.arpa", ["a", "c", "</s>"], 2)


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "model.arpa"
    model = made(text(), "kneser-ney", 3)
    with pytest.raises(UserError, match=r"cannot hold a cache: set arch\.cache to 0"):
        write_arpa(replace(model, cache=0.1, cache_sizes=(5,)), SPELLINGS, path)
    with pytest.raises(UserError, match="cannot hold probabilities of zero"):
        write_arpa(made(text(), "maximum-likelihood", 3), SPELLINGS, path)
    with pytest.raises(UserError, match="word 3, '<unk>', is the spelling of another one"):
        write_arpa(model, SPELLINGS, path, unknown=4)
    with pytest.raises(UserError, match="5 words for an n-gram model of 6 ids"):
        write_arpa(model, SPELLINGS[:5], path)
    for word, reason in (("a b", "has white space"), ("", "is empty"), ("é", "another"), ("<s>", "another")):
        with pytest.raises(UserError, match=f"word (0|1), '{word or ''}', .*{reason}|word 1, 'é'"):
            write_arpa(model, [word, *SPELLINGS[1:]], path)
    assert list(tmp_path.iterdir()) == []


def test_order_1_maximum_likelihood_of_a_text_with_every_word_can_be_written(tmp_path):
    full = np.ones(3, bool)
    model = estimate(Ngram(order=1, smoothing="maximum-likelihood"), array([0, 1, 2]), eos=2, vocab=full)
    write_arpa(model, ["a", "b", "c"], tmp_path / "one.arpa")
    found, words = read_arpa(tmp_path / "one.arpa", ["a", "b", "</s>"], 2)
    np.testing.assert_allclose(np.exp(found.score(array([0, 1, 2]))), [1 / 3] * 3, rtol=1e-6)
    assert VOCAB.sum() == 5 and words == ["a", "b", "</s>"]
