"""Texts of n-gram models: as the model's own probabilities say, whatever else is made beside them."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

from research.generate.decoding import Prompt, generate, stream
from research.generate.settings import Decoding
from research.types import UserError
from tests.models.test_ngram import EOS, NEVER, WORDS, made, text

PROMPTS = [Prompt((0, 3)), Prompt((4,)), Prompt((1, 1, 0))]


@pytest.fixture(scope="module")
def model():
    return made(text(), "kneser-ney", 3, cache=0.2, cache_sizes=(3,))


def test_greedy_text_is_the_likeliest_token_each_time_and_its_score_is_their_probability(model):
    decoding = Decoding(max_new_tokens=8, stop=(EOS,))
    for prompt, (found,) in zip(PROMPTS, generate(model, None, PROMPTS, decoding), strict=True):
        read, score = list(prompt.tokens), 0.0
        while len(read) < len(prompt.tokens) + 8:
            scores = model.next_log_probs(read)
            read.append(int(np.argmax(scores)))
            score += scores[read[-1]]
            if read[-1] == EOS:
                break
        assert list(found.tokens) == read[len(prompt.tokens) :]
        assert found.score == pytest.approx(score)


def test_a_seed_makes_one_text_whatever_is_made_beside_it(model):
    decoding = Decoding("sample", max_new_tokens=12, returned=2, seed=3)
    found = generate(model, None, PROMPTS, decoding)
    assert generate(model, None, PROMPTS, decoding) == found
    assert generate(model, None, PROMPTS[::-1], decoding) == found[::-1]
    assert generate(model, None, PROMPTS[1:2], decoding) == found[1:2]
    assert generate(model, None, PROMPTS, dataclasses.replace(decoding, seed=4)) != found
    assert all(first != second for first, second in found)  # of one prompt
    assert [token for piece in stream(model, None, PROMPTS[0], decoding) for token in piece] == list(found[0][0].tokens)


def test_samples_are_as_frequent_as_the_model_says_at_a_temperature(model):
    many, temperature = 400, 0.7
    decoding = Decoding("sample", max_new_tokens=1, returned=many, temperature=temperature)
    ((*found,),) = generate(model, None, PROMPTS[:1], decoding)
    counts = np.bincount([one.tokens[0] for one in found], minlength=model.size)
    probs = np.exp(model.next_log_probs(PROMPTS[0].tokens) / temperature)[WORDS]
    expected = many * probs / probs.sum()
    assert counts[NEVER] == 0 and expected.max() > 2 * expected.min()  # far from uniform
    assert chisquare(counts[WORDS], expected).pvalue > 1e-3


def test_rules_and_cuts_hold(model):
    ((free,),) = generate(model, None, PROMPTS[1:2], Decoding(max_new_tokens=6, stop=(EOS,)))
    banned = free.tokens[0]
    decoding = Decoding(max_new_tokens=6, min_new_tokens=6, stop=(EOS,), forbidden=(banned,))
    ((found,),) = generate(model, None, PROMPTS[1:2], decoding)
    assert EOS in free.tokens and EOS not in found.tokens[:5]
    assert len(found.tokens) == 6 and banned not in found.tokens
    likeliest = int(np.argmax(model.next_log_probs(PROMPTS[0].tokens)))
    ((*few,),) = generate(model, None, PROMPTS[:1], Decoding("sample", max_new_tokens=1, returned=9, top_k=1))
    assert {one.tokens for one in few} == {(likeliest,)}


def test_beam_search_is_refused(model):
    with pytest.raises(UserError, match="decoding.method is beam, which n-gram models do not do: use greedy or sample"):
        generate(model, None, PROMPTS, Decoding("beam", max_new_tokens=2))
