"""The guesses for a mask are the model's likeliest tokens."""

import dataclasses
import functools
import pydoc_data.topics

import jax
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer, train
from research.generate.fill import fill_mask
from research.models import preset
from research.models.heads import logits
from research.models.build import parameter_shapes
from research.models.transformer import Transformer
from research.types import UserError

TEXTS = ["Return the <mask> of the <mask>.", "<mask>", "The <mask> is not the value of the other list, or is it?"]


@pytest.fixture(scope="module")
def parts():
    text = "\n".join(pydoc_data.topics.topics.values())[:40_000]
    tokenizer = train(Tokenizer(kind="bpe", size=420, sentinels=20), text.split("\n\n"))
    arch = dataclasses.replace(preset("bert-nano"), width=32, mlp_width=64, layers=1, max_length=40)
    arch = dataclasses.replace(arch, vocab_size=len(tokenizer) + 12)  # more than the tokenizer has
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.normal(0, 0.2, x.shape).astype(np.float32), parameter_shapes(arch))
    return Transformer(arch), params, tokenizer


def test_guesses_are_the_models_likeliest_whatever_stands_beside(parts):
    model, params, tokenizer = parts
    forward = jax.jit(functools.partial(logits, model))
    found = fill_mask(model, params, tokenizer, TEXTS, top=7, batch_size=2)
    assert [len(masks) for masks in found] == [2, 1, 1]
    for text, masks in zip(TEXTS, found, strict=True):
        tokens = np.asarray(tokenizer(text)["input_ids"], np.int32)
        row = np.pad(tokens, (0, 40 - len(tokens)))[None]
        segments = (np.arange(40) < len(tokens)).astype(np.int32)[None]
        scores = np.asarray(forward(params, tokens=row, segments=segments)[0, :, : len(tokenizer)], np.float64)
        for guesses, at in zip(masks, np.flatnonzero(tokens == tokenizer.mask_token_id), strict=True):
            likely = np.argsort(-scores[at])[:7]
            shares = np.exp(scores[at]) / np.exp(scores[at]).sum()
            np.testing.assert_allclose([share for _, share in guesses], shares[likely], rtol=1e-4)
            assert [word for word, _ in guesses] == [tokenizer.decode([i]) for i in likely]


def test_what_cannot_be_filled_in_is_refused(parts):
    model, params, tokenizer = parts
    with pytest.raises(UserError, match=r"no <mask> in 'Return \[MASK\]\.'"):
        fill_mask(*parts, ["Return [MASK]."])
    with pytest.raises(UserError, match="the model has 40 positions: shorten it"):
        fill_mask(*parts, ["<mask>" + " list" * 50])
    with pytest.raises(UserError, match="top is 0"):
        fill_mask(*parts, TEXTS, top=0)
    decoder = Transformer(dataclasses.replace(preset("gpt2-nano"), vocab_size=8))
    with pytest.raises(UserError, match="a decoder does not fill masks"):
        fill_mask(decoder, params, tokenizer, TEXTS)
