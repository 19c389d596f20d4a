"""Cached decoding makes the tokens that `transformers` makes, and that the plain forward pass would."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.generate import decoding as loop
from research.generate.decoding import Prompt, bucket, chunks, generate, lengths, stream
from research.generate.scores import cut_tail, likeliest, nucleus
from research.generate.settings import Decoding
from research.models.build import create
from research.models.heads import logits
from research.models.ladder import Recurrent
from research.models.rules import from_huggingface
from research.models.transformer import Transformer
from research.types import UserError
from tests.models.oracles import ARCHS, PAD, VOCABULARY, torch_model

STOP = (2, 11)
SETTINGS = {
    "greedy": Decoding(),
    "greedy with rules": Decoding(repetition_penalty=1.5, no_repeat_ngram=2, min_new_tokens=4, forbidden=(5, 7)),
    "beam": Decoding(method="beam", beams=3, returned=2),
    "beam that ends early": Decoding(method="beam", beams=3, returned=3, early_stopping="yes", length_penalty=0.5),
    "beam that never gives up": Decoding(
        method="beam", beams=4, early_stopping="never", length_penalty=2.0, no_repeat_ngram=2
    ),
    "beam that likes it short": Decoding(method="beam", beams=2, length_penalty=-1.0, repetition_penalty=1.3),
}
TEXTS = [(14, 3, 40), (21, 30, 9, 44, 5), (33, 8), (17, 17, 25, 6, 46)]


def both(name):
    """Return the torch model, ours with its parameters, and its prompts."""
    oracle = torch_model(name)
    params = from_huggingface(ARCHS[name], {k: v.detach().numpy() for k, v in oracle.state_dict().items()})
    start = (getattr(oracle.config, "decoder_start_token_id", None) or PAD,)
    prompts = [Prompt(start, text) if ARCHS[name].structure == "encoder-decoder" else Prompt(text) for text in TEXTS]
    return oracle, Transformer(ARCHS[name]), jax.tree.map(jnp.asarray, params), prompts


def theirs(oracle, prompts, decoding):
    """Return (new tokens up to the end token, score) of every sequence that `transformers` makes."""
    torch = pytest.importorskip("torch")
    far = bool(prompts[0].source)
    texts = [prompt.source if far else prompt.tokens for prompt in prompts]
    width = max(map(len, texts))
    rows = [(*text, *[-1] * (width - len(text))) if far else (*[-1] * (width - len(text)), *text) for text in texts]
    ids = torch.tensor(rows)
    oracle.generation_config.forced_eos_token_id = None  # of BART's published checkpoints
    beam = decoding.method == "beam"
    out = oracle.generate(
        input_ids=torch.where(ids < 0, PAD, ids),
        attention_mask=(ids >= 0).long(),
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
        eos_token_id=list(decoding.stop),
        pad_token_id=PAD,
        do_sample=False,
        num_beams=decoding.beams if beam else 1,
        num_return_sequences=decoding.returned,
        length_penalty=decoding.length_penalty,
        early_stopping={"no": False, "yes": True, "never": "never"}[decoding.early_stopping],
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram,
        suppress_tokens=list(decoding.forbidden) or None,
        return_dict_in_generate=True,
        output_scores=True,
        **({"decoder_start_token_id": prompts[0].tokens[0]} if far else {}),
    )
    made = out.sequences[:, 1 if far else width :].tolist()
    ended = [tuple(row[: next((i + 1 for i, t in enumerate(row) if t in decoding.stop), len(row))]) for row in made]
    return list(zip(ended, out.sequences_scores.tolist() if beam else [None] * len(ended), strict=True))


def test_the_likeliest_is_the_first_of_the_greatest():
    scores = np.random.default_rng(0).integers(0, 9, (64, 50)).astype(np.float32)
    scores[0], scores[1, 7:] = -np.inf, -np.inf
    np.testing.assert_array_equal(likeliest(scores), scores.argmax(axis=1))
    assert 0 <= likeliest(np.full((1, 50), np.nan, np.float32))[0] < 50


@pytest.mark.parametrize(
    "name", ["gpt2", "bart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "t5-v1.1"))]
)
def test_tokens_and_scores_are_those_of_transformers(name):
    oracle, model, params, prompts = both(name)
    for title, settings in SETTINGS.items():
        if name in ("bart", "t5-v1.1") and title not in ("greedy with rules", "beam"):
            continue  # their caches are those of t5, and rules and searches do not look at the family
        decoding = replace(settings, max_new_tokens=10, stop=STOP)
        ours = [found for row in generate(model, params, prompts, decoding) for found in row]
        reference = theirs(oracle, prompts, decoding)
        assert [found.tokens for found in ours] == [tokens for tokens, _ in reference], title
        if decoding.method == "beam":
            np.testing.assert_allclose([found.score for found in ours], [s for _, s in reference], atol=1e-4)


def uncached(forward, prompt, decoding, prefix):
    """Return what greedy decoding with a whole forward pass a token makes, and its log-probability."""
    tokens, score, length = list(prompt.tokens), 0.0, 16
    for _ in range(decoding.max_new_tokens):
        inputs = {"tokens": np.asarray([tokens + [0] * (length - len(tokens))])}
        inputs["segments"] = np.arange(length)[None] < len(tokens)
        if prompt.source:
            source = [*prompt.source, *[0] * (8 - len(prompt.source))]
            inputs |= {"source": np.asarray([source]), "source_segments": np.arange(8)[None] < len(prompt.source)}
        if prefix:
            inputs |= {"prefix": (np.arange(length) < len(prompt.tokens))[None]}
        inputs = {key: value.astype(bool if key == "prefix" else np.int32) for key, value in inputs.items()}
        logp = forward(inputs)[0, len(tokens) - 1]
        tokens.append(int(jnp.argmax(logp)))
        score += float(logp.max())
        if tokens[-1] in decoding.stop:
            break
    return tuple(tokens[len(prompt.tokens) :]), score


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", False), ("gpt2", True), ("t5", False), ("bart", False)])
def test_cached_decoding_equals_the_plain_forward_pass(name, prefix):
    _, model, params, prompts = both(name)
    decoding = Decoding(max_new_tokens=8, stop=STOP)
    forward = jax.jit(lambda inputs: jax.nn.log_softmax(logits(model, params, **inputs)))
    for prompt, (found,) in zip(prompts, generate(model, params, prompts, decoding, bidirectional=prefix), strict=True):
        tokens, score = uncached(forward, prompt, decoding, prefix)
        assert found.tokens == tokens
        assert found.score == pytest.approx(score, abs=1e-4)


def test_a_prefix_is_read_in_both_directions():
    _, model, params, prompts = both("gpt2")
    decoding = Decoding(max_new_tokens=8)
    one, other = (generate(model, params, prompts, decoding, bidirectional=flag) for flag in (False, True))
    assert [row[0].score for row in one] != [row[0].score for row in other]


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
def test_the_batch_does_not_change_a_result(method):
    _, model, params, prompts = both("gpt2")
    decoding = Decoding(method=method, max_new_tokens=8, top_k=20, beams=2, returned=1 if method == "greedy" else 2)
    together = generate(model, params, prompts, decoding)
    assert [[len(found.tokens) for found in row] for row in together] == [[8] * decoding.returned] * 4
    backwards = generate(model, params, prompts[::-1], decoding, batch_size=3)[::-1]
    alone = [generate(model, params, [prompt], decoding)[0] for prompt in prompts]
    for rows in (backwards, alone):
        assert [[found.tokens for found in row] for row in rows] == [[found.tokens for found in row] for row in together]


def test_samples_differ_by_seed_and_by_copy_and_follow_the_distribution():
    _, model, params, prompts = both("gpt2")
    decoding = Decoding(method="sample", max_new_tokens=1, returned=2000, top_k=3)
    drawn = [found.tokens[0] for found in generate(model, params, prompts[:1], decoding, batch_size=500)[0]]
    logp = np.asarray(logits(model, params, tokens=np.asarray(prompts[0].tokens)[None])[0, -1])
    best = np.argsort(-logp)[:3]
    shares = np.exp(logp[best]) / np.exp(logp[best]).sum()
    for token, share in zip(best, shares, strict=True):  # five standard deviations
        assert abs(drawn.count(token) - 2000 * share) < 5 * np.sqrt(2000 * share * (1 - share))
    assert set(drawn) == set(best.tolist())
    other = [found.tokens[0] for found in generate(model, params, prompts[:1], replace(decoding, seed=1, returned=20))[0]]
    assert other != drawn[:20]


def test_a_stream_is_what_generate_returns():
    _, model, params, prompts = both("t5")
    decoding = Decoding(method="sample", max_new_tokens=10, stop=STOP)
    for prompt in prompts:
        pieces = list(stream(model, params, prompt, decoding, every=3))
        assert sum(pieces, ()) == generate(model, params, [prompt], decoding)[0][0].tokens
        assert all(len(piece) <= 3 for piece in pieces)


def test_the_cut_of_the_tail_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as reference

    scores = np.random.default_rng(0).normal(size=(64, 200)).astype(np.float32) * 3
    for ours, them in [
        (Decoding(temperature=0.7), [reference.TemperatureLogitsWarper(0.7)]),
        (Decoding(top_k=7), [reference.TopKLogitsWarper(7)]),
        (Decoding(top_p=0.9), [reference.TopPLogitsWarper(0.9)]),
        (Decoding(top_p=0.01), [reference.TopPLogitsWarper(0.01)]),
        (Decoding(min_p=0.1), [reference.MinPLogitsWarper(0.1)]),
        (
            Decoding(temperature=1.5, top_k=50, top_p=0.8, min_p=0.05),
            [
                reference.TemperatureLogitsWarper(1.5),
                reference.TopKLogitsWarper(50),
                reference.TopPLogitsWarper(0.8),
                reference.MinPLogitsWarper(0.05),
            ],
        ),
    ]:
        expected = torch.tensor(scores)
        for each in them:
            expected = each(None, expected)
        np.testing.assert_allclose(cut_tail(jnp.asarray(scores), ours), expected.numpy(), rtol=1e-6)


def test_the_nucleus_keeps_the_fewest_that_hold_the_share():
    shares = jnp.asarray([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    kept = jnp.isfinite(nucleus(jnp.log(shares), 0.6))
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_positions_end_a_text_and_lengths_are_rounded_up():
    _, model, params, prompts = both("gpt2")
    long = Prompt(tuple(range(3, 20)))  # 17 of 20 positions
    found = generate(model, params, [long, prompts[0]], Decoding(max_new_tokens=9))
    assert [len(row[0].tokens) for row in found] == [3, 9]
    assert [bucket(n) for n in (1, 2, 8, 9, 13, 17, 25, 100)] == [1, 8, 8, 12, 16, 24, 32, 128]
    rows = [(row, 0) for row in range(4)]
    assert list(chunks(model, prompts, rows, Decoding(max_new_tokens=4), 3)) == [[(2, 0), (0, 0), (1, 0)], [(3, 0)]]


@pytest.mark.parametrize(
    ("name", "decoding"),
    [
        ("gpt2", Decoding(max_new_tokens=10, repetition_penalty=1.5, no_repeat_ngram=2)),
        ("t5", Decoding(max_new_tokens=10, method="sample", stop=STOP, returned=2)),
    ],
)
def test_a_cache_that_grows_changes_no_token(name, decoding, monkeypatch):
    _, model, params, prompts = both(name)
    whole = generate(model, params, prompts, decoding)
    monkeypatch.setattr(loop, "lengths", lambda model, rows, most: [1, 4, 12])
    grown = generate(model, params, prompts, decoding)
    for row, other in zip(whole, grown, strict=True):
        assert [found.tokens for found in row] == [found.tokens for found in other]
        assert [found.score for found in row] == pytest.approx([found.score for found in other], abs=1e-5)


def test_a_cache_does_not_grow_for_texts_that_have_ended(monkeypatch):
    _, model, params, prompts = both("gpt2")
    monkeypatch.setattr(loop, "lengths", lambda model, rows, most: [1, 12])
    monkeypatch.setattr(loop, "longer", None)
    found = generate(model, params, prompts, Decoding(max_new_tokens=10, stop=tuple(range(VOCABULARY))))
    assert [len(row[0].tokens) for row in found] == [1] * 4


def test_a_cache_grows_by_quarters_where_it_is_larger_than_the_weights():
    model = Transformer(replace(ARCHS["gpt2"], width=256))
    assert lengths(model, 16, 240) == [96, 192, 256]
    assert lengths(model, 64, 240) == [64, 128, 192, 256] and lengths(model, 64, 100) == [32, 64, 96, 128]
    assert lengths(model, 64, 65) == [24, 48, 96]  # 72 would be enough
    assert lengths(model, 1, 240) == [256] and lengths(model, 16, 64) == [64]
    assert lengths(create(Recurrent(width=256)), 64, 240) == [256]  # it keeps no tokens
    assert all(size < most for most in range(1, 600) for size in lengths(model, 10**6, most)[:-1])


def test_a_source_may_fill_all_positions():
    _, model, params, prompts = both("bart")
    source = tuple(range(3, 20))  # 17 of 20 positions; 24 is the next length that is rounded up to
    tokens = prompts[0].tokens
    ((found,),) = generate(model, params, [Prompt(tokens, source)], Decoding(max_new_tokens=1))
    out = jax.jit(lambda: logits(model, params, tokens=np.asarray([tokens]), source=np.asarray([source])))()
    assert found.tokens == (int(jnp.argmax(out[0, -1])),)


def test_another_length_does_not_compile_again():
    _, model, params, prompts = both("gpt2")
    from research.generate.decoding import advance, begin

    generate(model, params, [Prompt((3, 4, 5))], Decoding(max_new_tokens=5))
    sizes = begin._cache_size(), advance._cache_size()
    generate(model, params, [Prompt((3, 4, 5, 6, 7))], Decoding(max_new_tokens=7, seed=3))
    assert (begin._cache_size(), advance._cache_size()) == sizes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0: it must be above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"method": "beam", "beams": 2, "returned": 3}, "no more to return"),
        ({"returned": 2}, "greedy decoding makes one text"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        generate(Transformer(ARCHS["gpt2"]), None, [Prompt((3,))], Decoding(**fields))


def test_prompts_that_cannot_work_are_refused():
    def refused(name, prompt):
        with pytest.raises(UserError) as error:
            generate(Transformer(ARCHS[name]), None, [prompt], Decoding())
        return str(error.value)

    assert "an encoder makes no text" in refused("bert", Prompt((3,)))
    assert "the prompt is empty" in refused("gpt2", Prompt(()))
    assert "the prompt is empty" in refused("t5", Prompt((0,)))
    assert "the prompt has 20 tokens, but the model has 20 positions" in refused("gpt2", Prompt((3,) * 20))
