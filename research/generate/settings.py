"""How text is made: the settings of decoding. Imports neither jax nor transformers, for `generate --help`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from research.types import UserError


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen, and when to end."""

    method: Literal["greedy", "sample", "beam"] = "greedy"
    """The likeliest token, a random one, or the likeliest sequence that a beam search finds."""
    max_new_tokens: int = 0
    """Most tokens made for a prompt, fewer where the model's positions end before; 0: as many as the answers had that
    it was trained on, 64 where that is not known."""
    min_new_tokens: int = 0
    """Tokens made before an end token may be."""
    returned: int = 1
    """Texts for each prompt: samples, or the best of the beams."""
    temperature: float = 1.0
    """Divides the scores before sampling."""
    top_k: int = 0
    """Sample among this many likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that hold this share of the probability."""
    min_p: float = 0.0
    """Sample among tokens of at least this share of the likeliest one's probability."""
    seed: int = 0
    """Names the random bits of sampling, together with the prompt."""
    beams: int = 4
    """Sequences that a beam search keeps."""
    length_penalty: float = 1.0
    """A beam's score is its log-probability over its length to this power: above 0 favours long ones."""
    early_stopping: Literal["no", "yes", "never"] = "no"
    """When a beam search with as many ended sequences as beams ends: when the best open one, at its present length,
    could not beat them; at once; or when it could not at any length."""
    repetition_penalty: float = 1.0
    """Divides the score of each token that was read or made; 1: none."""
    no_repeat_ngram: int = 0
    """Never make a run of this many tokens twice; 0: no rule."""
    stop: tuple[int, ...] = ()
    """Ids that end a sequence."""
    forbidden: tuple[int, ...] = ()
    """Ids that are never made."""


def check(decoding: Decoding) -> Decoding:
    """Return `decoding` if every field can work.

    Raises:
        UserError: A field out of its range; the message names it and says what it may be.
    """
    least = {"max_new_tokens": 0, "min_new_tokens": 0, "returned": 1, "top_k": 0, "beams": 1, "no_repeat_ngram": 0}
    for name, bound in least.items():
        if getattr(decoding, name) < bound:
            raise UserError(f"{name} is {getattr(decoding, name)}: it must be at least {bound}")
    for name in ("temperature", "repetition_penalty"):
        if not (getattr(decoding, name) > 0 and math.isfinite(getattr(decoding, name))):
            raise UserError(f"{name} is {getattr(decoding, name)}: it must be above 0")
    if not 0 < decoding.top_p <= 1:
        raise UserError(f"top_p is {decoding.top_p}: it must be above 0 and at most 1")
    if not 0 <= decoding.min_p <= 1:
        raise UserError(f"min_p is {decoding.min_p}: it must be from 0 to 1")
    if not 0 <= decoding.seed < 2**32:
        raise UserError(f"seed is {decoding.seed}: it must be at least 0 and below 2**32")
    if not math.isfinite(decoding.length_penalty):
        raise UserError(f"length_penalty is {decoding.length_penalty}: it must be a number")
    if decoding.method == "beam" and decoding.returned > decoding.beams:
        raise UserError(f"returned is {decoding.returned}, but a search of {decoding.beams} beams has no more to return")
    if decoding.method == "greedy" and decoding.returned > 1:
        raise UserError(f"returned is {decoding.returned}, but greedy decoding makes one text: sample, or use beams")
    return decoding
