"""Decoding: one compiled loop that reads its own words, for decoders and encoder-decoders, greedy or sampled.

A batch is prompts padded on the left and sources padded on the right. Lengths are rounded up, so that a new length
rarely compiles. What a prompt gives depends on the settings and on itself: padding is never seen, and random bits are
named by the prompt, not by its place in the batch (products of matrices of another size may round otherwise).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from research.generate import counted
from research.generate.scores import constrain, cut_tail, likeliest
from research.generate.settings import Decoding, check
from research.keys import key
from research.models.arch import Arch
from research.models.build import Model, empty
from research.models.cache import Cache, Carried
from research.models.heads import project
from research.models.ngram import NgramModel
from research.models.transformer import Transformer
from research.types import UserError


class Prompt(NamedTuple):
    """What is read before the first token is made."""

    tokens: tuple[int, ...]  # by the decoder: a text, or what an encoder-decoder's decoder starts with
    source: tuple[int, ...] = ()  # by the encoder


class Generated(NamedTuple):
    """One sequence made for a prompt."""

    tokens: tuple[int, ...]  # without the prompt, with the end token if there is one
    score: float  # log-probability in nats; of a beam, divided by its length to the power of the length penalty


class State(NamedTuple):
    """What the loop carries."""

    tokens: jax.Array  # int32[B, L]: prompt, then what was made
    made: jax.Array  # int32[]: tokens made
    done: jax.Array  # bool[B]
    score: jax.Array  # float32[B]: log-probability of what was made
    cache: Cache | Carried


def generate(
    model: Model | NgramModel,
    params: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    batch_size: int = 16,
    bidirectional: bool = False,
    size: int = 0,
) -> list[list[Generated]]:
    """Return, for each of `prompts`, `decoding.returned` sequences, the best or first one first.

    Args:
        model: A decoder, an encoder-decoder, or an n-gram model.
        params: Its parameters.
        prompts: Token ids; the order does not matter.
        decoding: The settings.
        batch_size: Most sequences made at the same time.
        bidirectional: Whether prompts are read as a prefix LM reads its prefix.
        size: Ids from here on are never made (a tokenizer smaller than the embedding); 0: all may be.

    Raises:
        UserError: A setting out of range, an encoder alone, an empty prompt, or one that fills the model's positions.
    """
    from research.generate.beam import search

    check(decoding)
    if isinstance(model, NgramModel):
        return [[_counted(model, prompt, copy, decoding) for copy in range(_copies(decoding))] for prompt in prompts]
    rows = [(row, copy) for row in range(len(prompts)) for copy in range(_copies(decoding))]
    results: list[list[Generated]] = [[] for _ in prompts]
    width = batch_size // decoding.beams if decoding.method == "beam" else batch_size
    for chunk in chunks(model, prompts, rows, decoding, max(1, width)):
        some = [prompts[row] for row, _ in chunk]
        batch = pad_batch(model.arch, some, [copy for _, copy in chunk], decoding, max(1, width))
        make = search if decoding.method == "beam" else _one_by_one
        found = make(model, params, batch, room(model, some[0], decoding), decoding, bidirectional, size or None)
        for (row, _), sequences in zip(chunk, found, strict=False):  # the batch is padded with rows that nobody asked for
            results[row].extend(sequences)
    return results


def stream(
    model: Model | NgramModel,
    params: Any,
    prompt: Prompt,
    decoding: Decoding,
    *,
    bidirectional: bool = False,
    size: int = 0,
    every: int = 4,
) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of one greedy or sampled sequence, `every` few at a time, as they are made.

    Raises:
        UserError: As `generate`.
    """
    if isinstance(model, NgramModel):
        made = counted.tokens(model, prompt.tokens, _number(prompt), 0, check(decoding))
        yield from ((token,) for token, _ in made)
        return
    most = room(model, prompt, check(decoding))
    batch = pad_batch(model.arch, [prompt], [0], decoding, 1)
    state = begin(params, batch, model=model, new=bucket(most), bidirectional=bidirectional)
    shown = 0
    while shown < most and not bool(state.done.all()):
        until = min(shown + every, most)
        state = advance(params, state, batch, until, model=model, decoding=decoding, size=size or None)
        made = _made(state, batch, most, decoding.stop)[0].tokens
        yield made[shown:]
        shown = until


def _counted(model: NgramModel, prompt: Prompt, copy: int, decoding: Decoding) -> Generated:
    made = list(counted.tokens(model, prompt.tokens, _number(prompt), copy, decoding))
    return Generated(tuple(token for token, _ in made), sum(score for _, score in made))


def _copies(decoding: Decoding) -> int:
    return decoding.returned if decoding.method == "sample" else 1


def room(model: Model, prompt: Prompt, decoding: Decoding) -> int:
    """Return how many tokens can be made for `prompt`: `max_new_tokens`, or what the model's positions leave.

    Raises:
        UserError: An encoder alone, an empty prompt, or one that leaves no room; or no number, which
            `prompts.Reader.settings` knows.
    """
    arch = model.arch
    if arch.structure == "encoder":
        raise UserError("an encoder makes no text: use fill-mask, or a decoder or encoder-decoder")
    if not prompt.tokens or (arch.structure == "encoder-decoder" and not prompt.source):
        raise UserError("the prompt is empty: give at least one token")
    longest = max(len(prompt.tokens) + 1, len(prompt.source))
    if arch.positions == "learned" and longest > arch.max_length:
        raise UserError(
            f"the prompt has {max(len(prompt.tokens), len(prompt.source))} tokens, but the model has {arch.max_length} "
            "positions: shorten it"
        )
    if not decoding.max_new_tokens:
        raise UserError("max_new_tokens is 0: it must be at least 1")
    left = arch.max_length - len(prompt.tokens) if arch.positions == "learned" else decoding.max_new_tokens
    return min(decoding.max_new_tokens, left)


def chunks(
    model: Model, prompts: Sequence[Prompt], rows: Iterable[tuple[int, int]], decoding: Decoding, size: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (prompt, copy) pairs in batches of at most `size`, of like lengths and the same room."""

    def shape(row: tuple[int, int]) -> tuple[int, int, int]:
        prompt = prompts[row[0]]
        return room(model, prompt, decoding), len(prompt.source), len(prompt.tokens)

    batch: list[tuple[int, int]] = []
    for row in sorted(rows, key=shape):
        if batch and (len(batch) == size or shape(row)[0] != shape(batch[0])[0]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class Batch(NamedTuple):
    """Prompts made rectangular."""

    tokens: np.ndarray  # int32[B, P], padded on the left
    valid: np.ndarray  # bool[B, P]
    source: np.ndarray | None  # int32[B, S], padded on the right
    segments: np.ndarray | None  # int32[B, S], 1 where the source is no padding
    keys: jax.Array  # key[B], of sampling


def bucket(length: int) -> int:
    """Return the least of 1, 8, 12, 16, 24, 32, 48, 64, ... that is at least `length`."""
    if length <= 1:
        return 1
    power = 8
    while power < length:
        if power * 3 // 2 >= length:
            return power * 3 // 2
        power *= 2
    return power


def pad_batch(
    arch: Arch, prompts: Sequence[Prompt], copies: Sequence[int], decoding: Decoding, most: int
) -> Batch:
    """Return `prompts` as arrays of rounded-up sizes; rows up to the next power of two (at most `most`) repeat the last."""
    rows = [*prompts, *[prompts[-1]] * (min(most, 1 << (len(prompts) - 1).bit_length()) - len(prompts))]
    length, far = (bucket(max(len(row[i]) for row in rows)) for i in (0, 1))
    if arch.positions == "learned":  # a cache counts its tokens' positions, an encoder those of padding too
        far = min(far, arch.max_length)
    tokens = np.zeros((len(rows), length), np.int32)
    valid = np.zeros((len(rows), length), bool)
    source = np.zeros((len(rows), far), np.int32)
    for i, row in enumerate(rows):
        tokens[i, length - len(row.tokens) :] = row.tokens
        valid[i, length - len(row.tokens) :] = True
        source[i, : len(row.source)] = row.source
    sizes = np.asarray([len(row.source) for row in rows])
    segments = (np.arange(far) < sizes[:, None]).astype(np.int32)
    numbers = [(_number(row), copy) for row, copy in zip(rows, [*copies, *[0] * len(rows)], strict=False)]
    keys = _keys(np.uint32(decoding.seed), np.asarray(numbers, np.uint32))
    both = bool(rows[0].source)
    return Batch(tokens, valid, source if both else None, segments if both else None, keys)


@jax.jit
def _keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    """Return key[B], the sampling key of each pair of `numbers`, uint32[B, 2]; uncompiled it takes 99 ms."""
    return jax.vmap(lambda pair: key(seed, "sampling", pair[0], pair[1]))(numbers)


def _number(prompt: Prompt) -> int:
    """Return 32 bits that name a prompt by its content."""
    return xxhash.xxh32_intdigest(np.asarray([len(prompt.tokens), *prompt.tokens, *prompt.source], "<i8").tobytes())


@functools.partial(jax.jit, static_argnames=("model", "new", "bidirectional"))
def begin(params: Any, batch: Batch, *, model: Model, new: int, bidirectional: bool) -> State:
    """Return the state before the first token: the encoder has read the source, the decoder's cache holds the prompt."""
    rows, length = batch.tokens.shape
    states = None
    if batch.source is not None:
        states = model.apply({"params": params}, batch.source, batch.segments, method=model.encode)
    _, cache = model.apply(
        {"params": params},
        batch.tokens,
        batch.valid,
        empty(model.arch, rows, length + new, model.dtype),
        bidirectional=bidirectional,
        states=states,
        source_segments=batch.segments,
        method=model.extend,
    )
    # The loop reads the token before the one it makes. For the first that is the prompt's last, here for the second
    # time, so that the loop needs no special case.
    cache = cache.back()
    tokens = jnp.pad(batch.tokens, ((0, 0), (0, new)))
    return State(tokens, jnp.int32(0), jnp.zeros(rows, bool), jnp.zeros(rows), cache)


def next_scores(
    model: Model, params: Any, last: jax.Array, cache: Cache | Carried, segments: jax.Array | None, size: int | None
) -> tuple[jax.Array, Cache | Carried]:
    """Return float32[B, V] scores of what follows `last`, int32[B], and the cache with it."""
    hidden, cache = model.apply(
        {"params": params},
        last[:, None],
        jnp.ones_like(last, bool)[:, None],
        cache,
        source_segments=segments,
        method=model.extend,
    )
    return project(model.arch, params, hidden)[:, :size], cache


@functools.partial(jax.jit, static_argnames=("model", "decoding", "size"), donate_argnames="state")
def advance(
    params: Any, state: State, batch: Batch, until: int, *, model: Model, decoding: Decoding, size: int | None
) -> State:
    """Return `state` after `until` tokens were made, or all rows have ended."""
    prompt = batch.tokens.shape[1]
    ended = jnp.asarray(decoding.stop or (-1,))

    def step(state: State) -> State:
        filled = prompt + state.made
        scores, cache = next_scores(model, params, state.tokens[:, filled - 1], state.cache, batch.segments, size)
        total = jax.nn.logsumexp(scores, axis=-1)
        whole = scores
        scores = constrain(scores, state.tokens, cache.valid, filled, state.made, decoding)
        if decoding.method == "sample":
            keys = jax.vmap(jax.random.fold_in, (0, None))(batch.keys, state.made)
            chosen = jax.vmap(jax.random.categorical)(keys, cut_tail(scores, decoding)).astype(jnp.int32)
        else:
            chosen = likeliest(scores)
        gain = jnp.take_along_axis(whole, chosen[:, None], axis=1)[:, 0] - total
        return State(
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, chosen[:, None], filled, axis=1),
            made=state.made + 1,
            done=state.done | jnp.isin(chosen, ended),
            score=state.score + jnp.where(state.done, 0.0, gain),
            cache=cache,
        )

    return jax.lax.while_loop(lambda state: (state.made < until) & ~state.done.all(), step, state)


def longer(state: State, slots: int) -> State:
    """Return `state` with room for `slots` tokens a row; its cache is given up."""
    tokens = jnp.pad(state.tokens, ((0, 0), (0, slots - state.tokens.shape[1])))
    return state._replace(tokens=tokens, cache=state.cache.longer(slots))


def lengths(model: Model, rows: int, most: int) -> list[int]:
    """Return for how many new tokens there is room at first, and each time after the cache has grown.

    Every token reads the whole cache: one that grows by quarters is read five eighths as much. Each size is a program,
    compiled when it is first met, and does nothing for a cache that is smaller than the weights, below 6 D / rows slots:
    for one text, and so for `stream`, there is one. A beam search reorders its cache and keeps one length.
    """
    whole = bucket(most)
    part = max(-(-whole // 4), bucket(6 * model.arch.width // rows)) if isinstance(model, Transformer) else whole
    return [*range(part, min(whole, most), part), whole]


def _one_by_one(
    model: Model, params: Any, batch: Batch, most: int, decoding: Decoding, bidirectional: bool, size: int | None
) -> list[list[Generated]]:
    first, *others = lengths(model, len(batch.tokens), most)
    state = begin(params, batch, model=model, new=first, bidirectional=bidirectional)
    settings = dataclasses.replace(decoding, max_new_tokens=0, seed=0, returned=1)  # do not compile for these
    take = functools.partial(advance, model=model, decoding=settings, size=size)
    state = take(params, state, batch, min(first, most))
    for new in others:
        if state.done.all():
            break
        state = take(params, longer(state, batch.tokens.shape[1] + new), batch, min(new, most))
    return [[made] for made in _made(state, batch, most, decoding.stop)]


def _made(state: State, batch: Batch, most: int, stop: tuple[int, ...]) -> list[Generated]:
    """Return what each row has made, up to and with its first end token."""
    start, made = batch.tokens.shape[1], min(int(state.made), most)
    tokens, scores = np.asarray(state.tokens[:, start : start + made]), np.asarray(state.score)
    return [Generated(cut(row.tolist(), stop), float(score)) for row, score in zip(tokens, scores, strict=True)]


def cut(tokens: list[int], stop: tuple[int, ...]) -> tuple[int, ...]:
    """Return `tokens` up to and with the first that is in `stop`."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tuple(tokens[:end])
