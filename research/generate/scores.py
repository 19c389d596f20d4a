"""What decoding does to the scores of the next token before one is taken: bans, penalties, and cuts of the tail.

Each function but `likeliest`, which takes one, maps float32[B, V] scores to scores; -inf is a token that cannot be
taken. Orders, and what happens to ties, are those of `transformers`, so that the same settings give the same tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from research.generate.settings import Decoding


def likeliest(scores: jax.Array) -> jax.Array:
    """Return int32[...], the first of the greatest of `scores`, float32[..., V], as argmax does.

    XLA's argmax compares pairs one by one, on CPUs at a sixth of the speed of the two reductions here.
    """
    size = scores.shape[-1]
    greatest = jnp.max(scores, axis=-1, keepdims=True)
    places = jnp.where(scores == greatest, jnp.arange(size, dtype=jnp.int32), size - 1)  # of NaN the last
    return jnp.min(places, axis=-1)


def constrain(
    scores: jax.Array, tokens: jax.Array, valid: jax.Array, filled: jax.Array, made: jax.Array, decoding: Decoding
) -> jax.Array:
    """Return `scores` under every rule of `decoding` that holds whatever the method.

    Args:
        scores: float32[B, V].
        tokens: int32[B, L], read and made so far; slots from `filled` on are not written yet.
        valid: bool[B, L], slots that hold a token rather than padding.
        filled: int32[], slots written.
        made: int32[], tokens made so far.
        decoding: The settings.
    """
    read = valid & (jnp.arange(tokens.shape[1]) < filled)
    if decoding.repetition_penalty != 1.0:
        scores = penalise(scores, tokens, read, decoding.repetition_penalty)
    if decoding.no_repeat_ngram:
        scores = ban_repeats(scores, tokens, read, filled, decoding.no_repeat_ngram)
    if decoding.min_new_tokens and decoding.stop:
        early = made < decoding.min_new_tokens
        scores = jnp.where(early & _among(decoding.stop, scores.shape[1]), -jnp.inf, scores)
    if decoding.forbidden:
        scores = jnp.where(_among(decoding.forbidden, scores.shape[1]), -jnp.inf, scores)
    return scores


def penalise(scores: jax.Array, tokens: jax.Array, read: jax.Array, penalty: float) -> jax.Array:
    """Return `scores` with those of tokens already `read` divided by `penalty`, or multiplied where negative.

    Keskar et al. (2019), section 4.1.
    """
    seen = _marked(tokens, read, scores.shape[1])
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_repeats(scores: jax.Array, tokens: jax.Array, read: jax.Array, filled: jax.Array, size: int) -> jax.Array:
    """Return `scores` without the tokens that would repeat a run of `size` tokens (Paulus et al., 2017, section 2.5)."""
    length = tokens.shape[1]
    if size > length:
        return scores
    starts = length - size + 1
    matches = jnp.ones((tokens.shape[0], starts), bool)
    for i in range(size - 1):
        at = jnp.maximum(filled - size + 1 + i, 0)
        same = tokens[:, i : i + starts] == tokens[:, at, None]
        matches &= same & read[:, i : i + starts] & read[:, at, None]
    ends = read[:, size - 1 :]  # a run that would end in the token to come is not there yet
    return jnp.where(_marked(tokens[:, size - 1 :], matches & ends, scores.shape[1]), -jnp.inf, scores)


def cut_tail(scores: jax.Array, decoding: Decoding) -> jax.Array:
    """Return `scores` at the temperature, without what top-k, top-p and min-p leave out, in this order.

    Top-k: Fan et al. (2018), section 5.4; top-p: Holtzman et al. (2020), section 3.1; min-p: Nguyen et al. (2024).
    """
    if decoding.temperature != 1.0:
        scores = scores / decoding.temperature
    if 0 < decoding.top_k < scores.shape[1]:
        least = jax.lax.top_k(scores, decoding.top_k)[0][:, -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    if decoding.top_p < 1.0:
        scores = nucleus(scores, decoding.top_p)
    if decoding.min_p:
        shares = jax.nn.softmax(scores, axis=-1)
        scores = jnp.where(shares < decoding.min_p * jnp.max(shares, axis=-1, keepdims=True), -jnp.inf, scores)
    return scores


def nucleus(scores: jax.Array, share: float) -> jax.Array:
    """Return `scores` of the fewest likeliest tokens that hold at least `share` of the probability; -inf elsewhere.

    The least probability kept is found by bisection over the bits of a float32, whose order is that of the numbers: 31
    sums instead of a sort, which for a row of 50,000 is ten times dearer on a CPU. Equals of the least are kept.
    """
    shares = jax.nn.softmax(scores, axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # what is at least `low` holds enough, what is at least `high` does not
        middle = low + (high - low) // 2
        least = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.sum(jnp.where(shares >= least, shares, 0.0), axis=-1, keepdims=True) >= share
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    top = jax.lax.bitcast_convert_type(jnp.max(shares, axis=-1, keepdims=True), jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(top), top + 1))
    return jnp.where(shares < jax.lax.bitcast_convert_type(low, jnp.float32), -jnp.inf, scores)


def _among(ids: tuple[int, ...], size: int) -> jax.Array:
    """Return bool[V]: which tokens are among `ids`."""
    return jnp.zeros(size, bool).at[jnp.asarray(ids)].set(True, mode="drop")


def _marked(tokens: jax.Array, where: jax.Array, size: int) -> jax.Array:
    """Return bool[B, V]: which ids stand in a row of `tokens` at a place that `where` marks."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros((tokens.shape[0], size), bool).at[rows, jnp.where(where, tokens, size)].set(True, mode="drop")
