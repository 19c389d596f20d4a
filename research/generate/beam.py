"""Beam search: the likeliest sequences that K open beams find, all in one compiled loop.

The search of Graves (2012) with ended sequences set aside, K of them at most, and the length penalty of `transformers`,
whose rules for ending it follows exactly.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.generate.decoding import Batch, Generated, begin, bucket, next_scores
from research.generate.scores import constrain
from research.generate.settings import Decoding
from research.models.build import Model
from research.models.cache import Cache, Carried

NEVER = -1e9  # the score of what cannot be chosen; finite, so that sums of it stay ordered


class Beams(NamedTuple):
    """What the search carries; K beams a prompt, the best first."""

    tokens: jax.Array  # int32[B, K, L]: prompt, then what was made, of open beams
    score: jax.Array  # float32[B, K]: their log-probabilities
    made: jax.Array  # int32[]
    ended: jax.Array  # int32[B, K, L]: ended sequences
    ended_score: jax.Array  # float32[B, K]: log-probability over length ** penalty
    ended_made: jax.Array  # int32[B, K]: their lengths
    is_ended: jax.Array  # bool[B, K]: whether there is an ended sequence in this place
    improvable: jax.Array  # bool[B]: whether an open beam could still beat an ended one
    stuck: jax.Array  # bool[]: whether no candidate could go on
    cache: Cache | Carried  # of B x K rows


def search(
    model: Model, params: Any, batch: Batch, most: int, decoding: Decoding, bidirectional: bool, size: int | None
) -> list[list[Generated]]:
    """Return, for each row of `batch`, its best `decoding.returned` sequences of at most `most` new tokens."""
    state = begin(params, batch, model=model, new=bucket(most), bidirectional=bidirectional)
    beams = _search(params, state.tokens, state.cache, batch.segments, most, model=model, decoding=decoding, size=size)
    start = batch.tokens.shape[1]
    ended, lengths, scores = (np.asarray(x) for x in (beams.ended, beams.ended_made, beams.ended_score))
    return [
        [
            Generated(tuple(ended[row, k, start : start + lengths[row, k]].tolist()), float(scores[row, k]))
            for k in range(decoding.returned)
        ]
        for row in range(len(ended))
    ]


@functools.partial(jax.jit, static_argnames=("model", "decoding", "size"))
def _search(
    params: Any,
    tokens: jax.Array,
    cache: Cache | Carried,
    segments: jax.Array | None,
    most: int,
    *,
    model: Model,
    decoding: Decoding,
    size: int | None,
) -> Beams:
    rows, length = tokens.shape
    prompt = cache.index + 1  # the cache stands before the prompt's last token
    width = decoding.beams
    keep = width * max(2, 1 + len(decoding.stop))  # were all the best to end, there would be `width` left to go on
    ends = jnp.asarray(decoding.stop or (-1,))
    if segments is not None:
        segments = jnp.repeat(segments, width, axis=0)

    def step(beams: Beams) -> Beams:
        filled = prompt + beams.made
        flat = beams.tokens.reshape(rows * width, length)
        scores, cache = next_scores(model, params, flat[:, filled - 1], beams.cache, segments, size)
        logp = constrain(jax.nn.log_softmax(scores, axis=-1), flat, cache.valid, filled, beams.made, decoding)
        total = logp.reshape(rows, width, -1) + beams.score[:, :, None]
        best, places = jax.lax.top_k(total.reshape(rows, -1), keep)
        origin, chosen = places // logp.shape[-1], (places % logp.shape[-1]).astype(jnp.int32)
        candidates = _pick(beams.tokens, origin)
        candidates = jax.lax.dynamic_update_slice_in_dim(candidates, chosen[:, :, None], filled, axis=2)
        made = beams.made + 1
        stops = jnp.isin(chosen, ends) | (made >= most)

        # The best that can go on.
        going = best + stops * NEVER
        order = jax.lax.top_k(going, width)[1]
        parents = _pick(origin, order) + width * jnp.arange(rows)[:, None]

        # The best that have ended: only the first `width` candidates may join those of before.
        joins = stops & (jnp.arange(keep) < width)
        full = beams.is_ended.all(axis=1) & (decoding.early_stopping == "yes")
        final = best / made.astype(jnp.float32) ** decoding.length_penalty
        final = final + (full | ~beams.improvable)[:, None] * NEVER + ~joins * NEVER
        final = jnp.concatenate([beams.ended_score, final], axis=1)
        final, places = jax.lax.top_k(final, width)
        is_ended = _pick(jnp.concatenate([beams.is_ended, joins], axis=1), places)

        # Whether the best open beam could, at the length that early_stopping assumes, beat the worst ended one.
        reach = most if decoding.early_stopping == "never" and decoding.length_penalty > 0 else made
        score = _pick(going, order)
        hope = score[:, :1] / jnp.asarray(reach, jnp.float32) ** decoding.length_penalty
        worst = jnp.where(is_ended, final.min(axis=1, keepdims=True), NEVER)
        return Beams(
            tokens=_pick(candidates, order),
            score=score,
            made=made,
            ended=_pick(jnp.concatenate([beams.ended, candidates], axis=1), places),
            ended_score=final,
            ended_made=_pick(jnp.concatenate([beams.ended_made, jnp.full((rows, keep), made)], axis=1), places),
            is_ended=is_ended,
            improvable=beams.improvable & (hope > worst).any(axis=1),
            stuck=stops.all(),
            cache=cache.of(parents.reshape(-1)),
        )

    def goes_on(beams: Beams) -> jax.Array:
        settled = beams.is_ended.all() & (decoding.early_stopping == "yes")
        return beams.improvable.any() & ~settled & ~beams.stuck

    tokens = jnp.repeat(tokens[:, None], width, axis=1)
    none = jnp.full((rows, width), NEVER)
    state = Beams(
        tokens=tokens,
        score=none.at[:, 0].set(0.0),  # all beams are the same prompt: only the first may have children
        made=jnp.int32(0),
        ended=tokens,
        ended_score=none,
        ended_made=jnp.zeros((rows, width), jnp.int32),
        is_ended=jnp.zeros((rows, width), bool),
        improvable=jnp.ones(rows, bool),
        stuck=jnp.bool_(False),
        cache=jax.tree.map(lambda x: jnp.repeat(x, width, axis=0) if x.ndim else x, cache),
    )
    return jax.lax.while_loop(goes_on, step, state)


def _pick(values: jax.Array, places: jax.Array) -> jax.Array:
    """Return [B, M, ...] of [B, N, ...] and int[B, M] places."""
    return jnp.take_along_axis(values, places.reshape(*places.shape, *[1] * (values.ndim - 2)), axis=1)
