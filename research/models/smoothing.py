"""Estimating n-gram models: counts of a text to the probabilities and back-off weights of a smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from research.models.counts import Counts, count, matches, pieces, suffixes, sums
from research.models.ngram import Level, Ngram, NgramModel, validate
from research.types import UserError

FALLBACK = (0.5, 1.0, 1.5)  # discounts of a text too small to estimate them from: those of KenLM's --discount_fallback
SURE = 0.9999  # the largest weight of an order in Jelinek-Mercer, so that no word ever becomes impossible
HELD_OUT = 1 << 20  # tokens that Jelinek-Mercer's weights are fitted on at most: one number for each order


def estimate(
    ngram: Ngram,
    tokens: np.ndarray,
    starts: np.ndarray | None = None,
    *,
    eos: int,
    vocab: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray | None] | None = None,
    room: int | None = None,
) -> NgramModel:
    """Return the model that `ngram` describes of `tokens` int[N], in documents that begin where `starts` uint8[N] is 1.

    Every order is `(c(hw) - D) * scale(h) + left(h) * p(w | shorter h)`, below single words the uniform distribution
    over `vocab`; an unseen h leaves all to the shorter one. No n-gram is cut off. What differs are the counts and D:

    - maximum-likelihood: c(hw) / c(h), 0 for words that never follow h.
    - add-k: (c(hw) + k) / (c(h) + k V) for the longest histories, n - 1 words or from `<s>` on; 1 / V for unseen ones.
    - jelinek-mercer: an order's share is fitted on `held_out` by EM (Jelinek and Mercer, 1980), one weight an order.
    - absolute-discounting: D = n1 / (n1 + 2 n2) of each order's counts of counts (Ney, Essen and Kneser, 1994).
    - kneser-ney: the same D, and below the highest order the number of words that an n-gram follows for its count
      (Kneser and Ney, 1995; interpolated as Chen and Goodman, 1998). N-grams from `<s>` on follow nothing and keep it.
    - modified-kneser-ney: D1, D2 and D3+ for counts of 1, 2 and more (Chen and Goodman, 1998, equation 26).

    A text without n-grams of an order that occur once or twice (three times too, for the modified one), or whose
    discounts are not positive, gets KenLM's fall-back 0.5, 1 and 1.5, or 0.5, for that order; `facts["fallback"]`
    lists these.

    The model's order is less than asked for where no document is that long. Memory is some 35 to 40 bytes an n-gram at
    most, whatever the number of tokens (experiments/bench_ngram.py).

    Args:
        eos: The id that ends a document, and stands for `<s>` in histories.
        vocab: bool[V]: which ids may be predicted; all others have no probability.
        held_out: Tokens and starts that `tokens` does not have; for Jelinek-Mercer only, and of a million the first.
        room: Bytes of memory that there are; None: not looked at.

    Raises:
        UserError: A field is wrong, there is no token or one outside `vocab`, Jelinek-Mercer has no `held_out`, or the
            n-grams take more than `room`.
    """
    validate(ngram)
    vocab = np.asarray(vocab, bool)
    size = len(vocab)
    if ngram.vocab_size not in (0, size):
        raise UserError(f"arch.vocab_size is {ngram.vocab_size}, but the tokenizer has {size} ids: leave it 0")
    if not len(tokens):
        raise UserError("no tokens to count n-grams in: the training text is empty")
    found = count(tokens, starts, ngram.order, size, eos, room)
    _inside(found[0].counts, vocab, "the training text")
    tables = [each.keys for each in found]
    links = suffixes(tables, size)
    amounts = [each.counts for each in found]
    if "kneser-ney" in ngram.smoothing:
        amounts[:-1] = [_continuations(raw, longer) for raw, longer in zip(amounts, links[1:], strict=False)]
    totals = [sums(*each, size, many) for *each, many in zip(tables, amounts, [1, *map(len, tables)], strict=False)]

    words = int(vocab.sum())
    discounts = [np.zeros(2)] * len(found)
    facts: dict[str, Any] = {"smoothing": ngram.smoothing, "tokens": len(tokens), "words": words}
    # What an order's histories scale and leave is made when the order's turn comes: 16 bytes a history.
    if ngram.smoothing == "maximum-likelihood":
        splits = ((1 / np.maximum(total, 1), np.zeros(len(total))) for total in totals)
    elif ngram.smoothing == "add-k":
        facts["k"] = ngram.k
        longest = [*_beginnings(tables, size, eos)[:-1], np.ones(len(totals[-1]), bool)]
        splits = (_added(total, ngram.k * words, which) for total, which in zip(totals, longest, strict=True))
    elif ngram.smoothing == "jelinek-mercer":
        facts["weights"] = weights = _fitted(found, totals, vocab, eos, held_out)
        shares = zip(totals, weights, strict=True)
        splits = ((weight / np.maximum(total, 1), np.full(len(total), 1 - weight)) for total, weight in shares)
    else:
        estimated = [_discounts(of, ngram.smoothing == "modified-kneser-ney") for of in amounts]
        discounts = [of for of, _ in estimated]
        facts["discounts"] = [of[1:].tolist() for of in discounts]
        facts["fallback"] = [n for n, (_, failed) in enumerate(estimated, 1) if failed]
        each_order = zip(tables, amounts, totals, discounts, strict=True)
        splits = (_discounted(keys, of, size, total, discount) for keys, of, total, discount in each_order)
    del found
    levels = _levels(tables, amounts, links, totals, discounts, splits, vocab)
    return NgramModel(levels, eos, ngram.cache, ngram.cache_sizes, facts)


def _levels(tables, amounts, links, totals, discounts, splits, vocab) -> tuple[Level, ...]:
    """Return the tables with their probabilities, from the shortest n-grams up."""
    size, probs, backoffs = len(vocab), [], []
    lower = np.array([1 / vocab.sum()])  # of the empty n-gram, which every single word is without its first
    every = zip(tables, amounts, links, totals, discounts, splits, strict=True)
    for keys, counted, link, total, discount, (scale, left) in every:
        left[total == 0] = 1  # a history that nothing follows: what a cut text ends in
        own = np.empty(len(keys), np.float32)
        for piece in pieces(len(keys)):
            history, times = keys[piece] // size, counted[piece]
            kept = times - discount[np.minimum(times, len(discount) - 1)]
            own[piece] = kept * scale[history] + left[history] * lower[link[piece]]
        if not probs:
            own[~vocab] = 0
        probs.append(own)
        backoffs.append(left.astype(np.float32))
        lower = own
    with np.errstate(divide="ignore"):
        for each in (*probs, *backoffs):
            np.log(each, out=each)
    return tuple(map(Level, tables, probs, [*backoffs[1:], np.zeros(0, np.float32)]))


def _discounted(keys, amounts, size, total, discount) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale of discounted counts and the share of a history's mass that the discounts free."""
    scale = 1 / np.maximum(total, 1)
    return scale, sums(keys, amounts, size, len(total), discount) * scale


def _added(total: np.ndarray, added: float, longest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return add-k's scale and what is left for the uniform distribution, which histories not `longest` are."""
    return np.where(longest, 1 / (total + added), 0.0), np.where(longest, added / (total + added), 1.0)


def _inside(counted: np.ndarray, vocab: np.ndarray, what: str) -> None:
    outside = np.flatnonzero((counted > 0) & ~vocab)
    if len(outside):
        raise UserError(f"{what} has id {outside[0]}, which is not to be predicted: tokenise it without such tokens")


def _continuations(raw: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Return uint32[M]: how many words come before each n-gram, or how often it occurs where it begins with `<s>`.

    `links` are the suffixes of the longer ones, all distinct. Only what begins with `<s>` is no suffix.
    """
    before = np.zeros(len(raw), np.uint32)
    for piece in pieces(len(links)):
        np.add.at(before, links[piece], np.uint32(1))
    return np.where(before == 0, raw, before)


def _beginnings(tables: Sequence[np.ndarray], size: int, eos: int) -> list[np.ndarray]:
    """Return, for each order, bool[histories]: those that begin with `<s>`."""
    found = [np.zeros(1, bool), np.arange(size) == eos]
    for keys in tables[1:-1]:
        found.append(found[-1][keys // size])
    return found[: len(tables)]


def _discounts(amounts: np.ndarray, modified: bool) -> tuple[np.ndarray, bool]:
    """Return float64[2] or float64[4], what counts of 0, 1, ... and more lose, and whether that is the fall-back."""
    n1, n2, n3, n4 = (float(np.count_nonzero(amounts == times)) for times in (1, 2, 3, 4))
    y = n1 / max(n1 + 2 * n2, 1)
    if not modified:
        return (np.array([0, y]), False) if n1 and n2 else (np.array([0, FALLBACK[0]]), True)
    if n1 and n2 and n3:
        found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found[1:] > 0).all():
            return found, False
    return np.array([0, *FALLBACK]), True


def _fitted(
    found: list[Counts],
    totals: list[np.ndarray],
    vocab: np.ndarray,
    eos: int,
    held_out: tuple[np.ndarray, np.ndarray | None] | None,
) -> list[float]:
    """Return each order's weight against those below it: the likeliest for the held-out text, by EM."""
    if held_out is None or not len(held_out[0]):
        raise UserError("jelinek-mercer fits its weights on held-out text: give a validation split, or take kneser-ney")
    tokens = np.asarray(held_out[0][:HELD_OUT], np.int64)
    starts = None if held_out[1] is None else held_out[1][:HELD_OUT]
    size = len(vocab)
    if not 0 <= tokens.min() <= tokens.max() < size:
        raise UserError(f"the held-out text has an id outside a vocabulary of {size}: tokenise it as the training text")
    _inside(np.bincount(tokens, minlength=size), vocab, "the held-out text")
    probs = np.zeros((len(found), len(tokens)))  # maximum likelihood of each order
    known = np.zeros(probs.shape, bool)  # whether the order has the history
    read = matches([each.keys for each in found], tokens, starts, size, eos)
    for n, (histories, rows) in enumerate(read):
        known[n] = histories >= 0
        known[n, known[n]] = totals[n][histories[known[n]]] > 0
        seen = rows >= 0
        probs[n, seen] = found[n].counts[rows[seen]] / np.maximum(totals[n][histories[seen]], 1)
    weights = np.full(len(found), 0.5)
    for _ in range(300):
        before = weights.copy()
        stops = np.where(known, weights[:, None], 0.0)
        passed = np.cumprod((1 - stops)[::-1], 0)[::-1]  # of the orders from this one up
        reached = np.vstack([passed[1:], np.ones((1, len(tokens)))])
        parts = reached * stops * probs
        posterior = parts / (parts.sum(0) + passed[0] / vocab.sum())
        above = np.cumsum(posterior[::-1], 0)[::-1] - posterior
        chances = np.where(known, 1 - above, 0).sum(1)
        weights = np.where(chances > 0, np.minimum(posterior.sum(1) / np.maximum(chances, 1e-12), SURE), before)
        if np.abs(weights - before).max() < 1e-6:
            break
    return weights.tolist()
