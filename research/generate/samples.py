"""What a model makes of a few words: a filled mask, a continuation, a reconstructed span.

Plain forward passes over one buffer of fixed length, compiled once each: enough to see what was learned.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.keys import key
from research.models.heads import logits
from research.models.transformer import Transformer
from research.types import UserError, Vocabulary


def fill_mask(model: Transformer, params: Any, tokenizer: Any, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for every mask token in `text`, the `top` likeliest tokens with their probabilities.

    Raises:
        UserError: `text` holds no mask token; write the tokenizer's own, for example [MASK].
    """
    tokens = np.asarray(tokenizer(text)["input_ids"], np.int32)
    masks = np.flatnonzero(tokens == tokenizer.mask_token_id)
    if not masks.size:
        raise UserError(f"no {tokenizer.mask_token} in {text!r}: put it where a word is to be filled in")
    scores = logits(model, params, tokens=tokens[None], segments=np.ones_like(tokens)[None], select=masks[None])
    probabilities, ids = jax.lax.top_k(jax.nn.softmax(scores[0, :, : len(tokenizer)], axis=-1), top)
    return [
        [(tokenizer.decode([token]), float(p)) for token, p in zip(row, shares, strict=True)]
        for row, shares in zip(np.asarray(ids), np.asarray(probabilities), strict=True)
    ]


def continuation(
    model: Transformer, params: Any, tokenizer: Any, vocabulary: Vocabulary, prompt: str, *, count: int = 40, seed: int = 0, top_k: int = 40
) -> str:
    """Return `prompt`, which must not be empty, continued by `count` ordinary tokens, each sampled among the `top_k` likeliest."""
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    buffer = np.zeros((1, len(tokens) + count), np.int32)
    buffer[0, : len(tokens)] = tokens

    @jax.jit
    def sample(params: Any, buffer: jax.Array, length: jax.Array) -> jax.Array:
        segments = (jnp.arange(buffer.shape[1]) < length).astype(jnp.int32)[None]
        scores = logits(model, params, tokens=buffer, segments=segments)[0, length - 1, : vocabulary.size]
        best, ids = jax.lax.top_k(jnp.where(vocabulary.special, -jnp.inf, scores), top_k)
        return ids[jax.random.categorical(key(seed, "sampling", length), best)]

    for length in range(len(tokens), buffer.shape[1]):
        buffer[0, length] = sample(params, buffer, length)
    return tokenizer.decode(buffer[0])


def reconstruction(
    model: Transformer, params: Any, tokenizer: Any, vocabulary: Vocabulary, text: str, *, count: int = 24
) -> list[str]:
    """Return what an encoder-decoder puts, greedily, in place of each sentinel of `text`, in order."""
    source = np.asarray([*tokenizer(text, add_special_tokens=False)["input_ids"], vocabulary.eos], np.int32)[None]
    buffer = np.full((1, count + 1), vocabulary.pad, np.int32)  # position 0: the decoder's start, as T5 has it

    @jax.jit
    def following(params: Any, buffer: jax.Array, length: jax.Array) -> jax.Array:
        segments = (jnp.arange(buffer.shape[1]) < length).astype(jnp.int32)[None]
        inputs = {"source": source, "source_segments": jnp.ones_like(source), "tokens": buffer, "segments": segments}
        return jnp.argmax(logits(model, params, **inputs)[0, length - 1, : vocabulary.size])

    for length in range(1, count + 1):
        buffer[0, length] = following(params, buffer, length)
        if buffer[0, length] == vocabulary.eos:
            break
    spans: list[list[int]] = []
    for token in buffer[0, 1 : length + 1].tolist():
        if token in vocabulary.sentinels:
            spans.append([])
        elif spans and token != vocabulary.eos:
            spans[-1].append(token)
    wanted = int(np.isin(source, vocabulary.sentinels).sum())
    return [tokenizer.decode(span) for span in spans[:wanted]]
