"""Fill-mask: the likeliest tokens in place of each mask."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from research.generate.decoding import bucket
from research.models.heads import logits
from research.models.transformer import Transformer
from research.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Guesses = list[tuple[str, float]]  # (token as text, probability), the likeliest first


def fill_mask(
    model: Transformer,
    params: Any,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    top: int = 5,
    batch_size: int = 16,
) -> list[list[Guesses]]:
    """Return, for each of `texts` and each mask token in it, the `top` likeliest tokens with their probabilities.

    Raises:
        UserError: The model is not an encoder with a vocabulary; a text has no mask token, or more tokens than the
            model has positions.
    """
    arch = model.arch
    if arch.structure != "encoder":
        raise UserError(f"a {arch.structure} does not fill masks: use generate, or an encoder such as BERT")
    if not 1 <= top <= len(tokenizer):
        raise UserError(f"top is {top}: it must be from 1 to {len(tokenizer)}, the size of the vocabulary")
    if tokenizer.mask_token is None:
        raise UserError("the tokenizer has no mask token: use a model that was trained to fill masks")
    rows = [tokenizer(text)["input_ids"] for text in texts]
    masks = [[i for i, token in enumerate(row) if token == tokenizer.mask_token_id] for row in rows]
    for text, row, at in zip(texts, rows, masks, strict=True):
        if not at:
            raise UserError(f"no {tokenizer.mask_token} in {text!r}: put it where a word is to be filled in")
        if len(row) > arch.max_length:
            raise UserError(f"a text has {len(row)} tokens, but the model has {arch.max_length} positions: shorten it")
    results: list[list[Guesses]] = [[] for _ in texts]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), len(masks[i])))
    for chunk in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        size = 1 << (len(chunk) - 1).bit_length()
        tokens = np.zeros((size, min(bucket(max(len(rows[i]) for i in chunk)), arch.max_length)), np.int32)
        segments = np.zeros_like(tokens)
        select = np.zeros((size, bucket(max(len(masks[i]) for i in chunk))), np.int32)
        for row, i in enumerate(chunk):
            tokens[row, : len(rows[i])], segments[row, : len(rows[i])] = rows[i], 1
            select[row, : len(masks[i])] = masks[i]
        shares, ids = map(np.asarray, _likeliest(params, tokens, segments, select, model, len(tokenizer), top))
        for row, i in enumerate(chunk):
            results[i] = [
                [(tokenizer.decode([token]), float(p)) for token, p in zip(ids[row, k], shares[row, k], strict=True)]
                for k in range(len(masks[i]))
            ]
    return results


@functools.partial(jax.jit, static_argnames=("model", "size", "top"))
def _likeliest(params: Any, tokens: Any, segments: Any, select: Any, model: Transformer, size: int, top: int) -> Any:
    """Return probabilities float32[B, K, top] and ids int32[B, K, top] of the first `size` ids at `select`."""
    scores = logits(model, params, tokens=tokens, segments=segments, select=select)
    return jax.lax.top_k(jax.nn.softmax(jnp.asarray(scores)[..., :size], axis=-1), top)
