"""What a random model makes of a few words has the right form; what a scripted one says is read right."""

import dataclasses
import functools
import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer, train, vocabulary
from research.generate import samples
from research.generate.samples import continuation, fill_mask, reconstruction
from research.keys import key
from research.models import preset
from research.models.transformer import Transformer, initial_parameters
from research.types import UserError

PROMPT = "The value of the"
BROKEN = "Return<extra_id_0> of the list, or None if<extra_id_1> is empty."


@pytest.fixture(scope="module")
def tokenizer():
    text = "\n".join(pydoc_data.topics.topics.values())[:40_000]
    return train(Tokenizer(kind="bpe", size=420, sentinels=20), text.split("\n\n"))


@pytest.fixture(scope="module")
def words(tokenizer):
    return vocabulary(tokenizer)


@pytest.fixture(scope="module")
def model(words):
    """Model and parameters of a preset by its name, with more ids than the tokenizer has."""

    @functools.cache
    def make(name):
        arch = dataclasses.replace(preset(name), width=32, mlp_width=64, layers=1, max_length=64)
        arch = dataclasses.replace(arch, vocab_size=words.size + 12)
        rng = np.random.default_rng(0)  # in place of the model's own draws, which take seconds to compile
        shapes = jax.eval_shape(lambda: initial_parameters(arch, key(0, "init")))
        return Transformer(arch), jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)

    return make


def test_a_masks_guesses_are_the_models_likeliest(tokenizer, words, model):
    encoder, params = model("bert-nano")
    text = "Return the <mask> of the <mask>."
    found = fill_mask(encoder, params, tokenizer, text, top=7)
    assert len(found) == 2 and all(len(guesses) == 7 for guesses in found)
    for guesses in found:
        shares = [share for _, share in guesses]
        assert shares == sorted(shares, reverse=True) and 0 < min(shares) and sum(shares) <= 1
        assert all(isinstance(word, str) for word, _ in guesses)

    tokens = np.asarray(tokenizer(text)["input_ids"], np.int32)
    scores = np.asarray(samples.logits(encoder, params, tokens=tokens[None], segments=np.ones_like(tokens)[None])[0])
    scores = scores[:, : len(tokenizer)]
    for guesses, at in zip(found, np.flatnonzero(tokens == words.mask), strict=True):
        likely = np.argsort(-scores[at])[:7]
        shares = np.exp(scores[at].astype(np.float64)) / np.exp(scores[at].astype(np.float64)).sum()
        np.testing.assert_allclose([share for _, share in guesses], shares[likely], rtol=1e-4)
        assert guesses[0][0] == tokenizer.decode([likely[0]])


def test_a_text_without_a_mask_is_refused(tokenizer, model):
    with pytest.raises(UserError, match=r"no <mask> in 'Return \[MASK\]\.'"):
        fill_mask(*model("bert-nano"), tokenizer, "Return [MASK].")


def test_a_continuation_begins_with_its_prompt_and_follows_its_seed(tokenizer, words, model):
    make = functools.partial(continuation, *model("gpt2-nano"), tokenizer, words, PROMPT, count=12)
    first = make(seed=0)
    assert first.startswith(PROMPT) and len(first) > len(PROMPT)
    assert make(seed=0) == first != make(seed=1)
    assert not any(name in first for name in tokenizer.all_special_tokens)


def scripted(monkeypatch, words, script):
    """Let the model's likeliest token at position i be script[i]."""

    def logits(model, params, *, tokens, **inputs):
        said = np.full(tokens.shape[1], words.pad)
        said[: len(script)] = script[: len(said)]
        return jnp.asarray(10.0 * np.eye(words.size, dtype=np.float32)[said])[None]

    monkeypatch.setattr(samples, "logits", logits)


def test_sampling_one_of_one_takes_the_likeliest_ordinary_token(tokenizer, words, monkeypatch):
    said = tokenizer(" value is", add_special_tokens=False)["input_ids"]
    prompt = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    scripted(monkeypatch, words, [0] * (len(prompt) - 1) + said)
    found = continuation(None, None, tokenizer, words, PROMPT, count=len(said), top_k=1)
    assert found == PROMPT + " value is"


def test_a_random_reconstruction_has_at_most_a_span_a_sentinel(tokenizer, words, model):
    found = reconstruction(*model("t5-nano"), tokenizer, words, BROKEN, count=8)
    assert isinstance(found, list) and len(found) <= 2 and all(isinstance(span, str) for span in found)


@pytest.mark.parametrize(
    ("said", "spans"),
    [
        ("<extra_id_0> the value<extra_id_1> the list</s> of", [" the value", " the list"]),
        ("<extra_id_0> the value<extra_id_1></s>", [" the value", ""]),
        ("<extra_id_0> a<extra_id_1> b<extra_id_2> c</s>", [" a", " b"]),  # only two were asked for
        (" no sentinel</s>", []),
        ("<extra_id_0> a", [" a"]),  # cut off by `count`
    ],
)
def test_a_reconstruction_reads_spans_between_sentinels(said, spans, tokenizer, words, monkeypatch):
    script = tokenizer(said, add_special_tokens=False)["input_ids"]
    scripted(monkeypatch, words, script)
    count = 24 if words.eos in script else len(script)
    assert reconstruction(None, None, tokenizer, words, BROKEN, count=count) == spans
