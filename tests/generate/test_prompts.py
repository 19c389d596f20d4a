"""Prompts are read as each objective trained its model to, and answers come back as text."""

import dataclasses
import pydoc_data.topics

import numpy as np
import pytest

from research.data.tokenizer import Tokenizer, train, vocabulary
from research.generate.prompts import Reader
from research.generate.settings import Decoding
from research.objectives.causal import Causal
from research.objectives.completion import Completion
from research.objectives.denoising import Denoising
from research.objectives.mixture import Mixture, R, S
from research.objectives.prefix import Prefix
from research.objectives.seq2seq import Seq2Seq
from research.objectives.span_corruption import SpanCorruption
from research.tasks import TASKS
from research.tasks.coder import Coder
from research.types import UserError

BROKEN = "Return<extra_id_0> of the list, or None if<extra_id_1> is empty."


@pytest.fixture(scope="module")
def tokenizer():
    text = "\n".join(pydoc_data.topics.topics.values())[:40_000]
    return train(Tokenizer(kind="bpe", size=440, sentinels=30), text.split("\n\n"))


@pytest.fixture(scope="module")
def words(tokenizer):
    return vocabulary(tokenizer)


def reader(tokenizer, words, objective, **fields):
    structure = objective.structures[0] if objective else fields.pop("structure")
    start = getattr(words, objective.start) if hasattr(objective, "start") else fields.pop("start", None)
    return Reader(tokenizer, words, structure, objective, start, (words.eos,))


def test_a_decoder_reads_a_prompt_as_it_stands_and_nothing_as_a_beginning(tokenizer, words):
    causal = reader(tokenizer, words, Causal())
    prompt = causal.prompt("The value of the")
    assert tokenizer.decode(prompt.tokens) == "The value of the" and prompt.source == ()
    assert causal.prompt("").tokens == (words.eos,)
    assert not causal.bidirectional and reader(tokenizer, words, Prefix()).bidirectional
    with pytest.raises(UserError, match="the prompt is empty"):
        Reader(tokenizer, words._replace(eos=None), "decoder", Causal()).prompt("")


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "bpe", "word"])
def test_a_continuation_has_the_spaces_of_the_whole_text(kind):
    text = "\n".join(pydoc_data.topics.topics.values())[:40_000]
    made = train(Tokenizer(kind=kind, size=400, sentinels=20), text.split("\n\n"))
    causal = Reader(made, vocabulary(made), "decoder", None)
    prompt, whole = causal.prompt("return the"), "return the value of"
    assert not set(prompt.tokens) & set(made.all_special_ids)  # nothing that ends a text
    rest = made(whole, add_special_tokens=False)["input_ids"][len(prompt.tokens) :]
    assert "return the" + causal.text(prompt, tuple(rest)) == whole


def test_sentinels_are_filled_in_and_one_is_added_to_a_text_without_any(tokenizer, words):
    spans = reader(tokenizer, words, SpanCorruption())
    prompt = spans.prompt(BROKEN)
    assert prompt.tokens == (words.pad,) and prompt.source[-1] == words.eos
    first, second = map(int, words.sentinels[:2])
    assert [token for token in prompt.source if token in words.sentinels] == [first, second]
    value, thing = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (" the value", " it"))
    answer = (first, *value, second, *thing, words.eos)
    assert spans.text(prompt, answer) == "Return the value of the list, or None if it is empty."
    assert spans.spans(answer) == {first: list(value), second: list(thing)}
    assert spans.text(prompt, (first, *value)) == "Return the value of the list, or None if is empty."
    assert spans.prompt("Return").source[-2:] == (first, words.eos)


def test_ul2_is_told_its_mode(tokenizer, words):
    mixture = reader(tokenizer, words, Mixture())
    assert mixture.prompt(BROKEN).source[0] == words.modes[R]
    prompt = mixture.prompt("Return")
    assert prompt.source[0] == words.modes[S] and prompt.source[-2] == words.sentinels[0]
    answer = (int(words.sentinels[0]), *tokenizer(" it", add_special_tokens=False)["input_ids"], words.eos)
    assert mixture.text(prompt, answer) == "Return it"


def test_denoising_reads_masks_and_answers_with_the_whole_text(tokenizer, words):
    denoising = reader(tokenizer, words, Denoising())
    prompt = denoising.prompt("Return<mask> of the list.")
    assert words.mask in prompt.source and prompt.source[-1] == words.eos and prompt.tokens == (words.eos,)
    answer = tuple(tokenizer("Return the end of the list.", add_special_tokens=False)["input_ids"])
    assert denoising.text(prompt, (*answer, words.eos)) == "Return the end of the list."


def test_a_model_from_elsewhere_reads_what_its_tokenizer_makes_and_ends_the_source(tokenizer, words):
    other = reader(tokenizer, words, None, structure="encoder-decoder", start=3)
    prompt = other.prompt("translate this")
    assert prompt.tokens == (3,) and prompt.source[-1] == words.eos and prompt.source.count(words.eos) == 1
    with pytest.raises(UserError, match="decoder_start_token_id"):
        reader(tokenizer, words, None, structure="encoder-decoder").prompt("x")


@pytest.mark.parametrize("objective", [Causal(), SpanCorruption(), Denoising(), None])
def test_what_was_never_text_is_never_made(tokenizer, words, objective):
    settings = reader(tokenizer, words, objective, structure="decoder").settings(Decoding(forbidden=(7,)))
    assert settings.stop == (words.eos,)
    special = set(np.flatnonzero(words.special).tolist())
    sentinels = set(words.sentinels.tolist())
    if objective is None:
        assert settings.forbidden == (7,)
    elif isinstance(objective, SpanCorruption):
        assert set(settings.forbidden) == (special - sentinels - {words.eos}) | {7}
    else:
        assert set(settings.forbidden) == (special - {words.eos}) | {7}


def test_an_answer_is_as_long_as_those_in_training_unless_it_is_said(tokenizer, words):
    for objective, expected in ((Seq2Seq(target_length=128), 128), (Completion(target_length=9), 9), (Causal(), 64)):
        made = reader(tokenizer, words, objective)
        assert made.settings(Decoding()).max_new_tokens == expected
        assert made.settings(Decoding(max_new_tokens=200)).max_new_tokens == 200
    assert reader(tokenizer, words, None, structure="decoder").settings(Decoding()).max_new_tokens == 64


@pytest.mark.parametrize("objective", [Seq2Seq(prompt="turn: {source} now"), Completion(prompt="{source} =>", target_length=4)])
def test_a_task_s_prompt_is_what_training_read(tokenizer, words, objective, capsys):
    task, coder = TASKS[type(objective)], Coder(tokenizer, words)
    made = reader(tokenizer, words, objective)._replace(coder=coder, length=48)
    long = "the value of the list and " * 9
    for text in ("the value", "a<extra_id_0> <mask> b", "", long):
        (read,) = task.sources(objective, coder, 48, [{"place": "x", "source": text}])
        prompt = made.prompt(text)
        assert (prompt.source or prompt.tokens) == tuple(read.ids)
        assert prompt.tokens == (words.pad,) or not prompt.source
        assert ("the prompt was cut to the 48 tokens" in capsys.readouterr().err) == read.cut == (text == long)
    other = made._replace(objective=dataclasses.replace(objective, prompt="{source} of {title}"))
    with pytest.raises(UserError, match="of records with 'title': use predict with a file of them"):
        other.prompt("x")


@pytest.mark.parametrize("prompt", ["{source!r}", "{source:>10}", "{source.x}", "{source[0]}", "{a} {b:3}"])
def test_a_template_takes_columns_as_they_are(prompt):
    for objective in (Seq2Seq(prompt=prompt), Completion(prompt=prompt)):
        with pytest.raises(UserError, match=r"takes columns as they are"):
            objective.check(128)
    Seq2Seq(prompt="{source} and {translation.en} {{x}}").check(128)
