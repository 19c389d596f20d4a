"""Text made by n-gram models, under the settings that other models have, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from research.generate.scores import constrain, cut_tail, likeliest
from research.generate.settings import Decoding
from research.keys import key
from research.models.ngram import NgramModel
from research.types import UserError


def tokens(
    model: NgramModel, prompt: Sequence[int], name: int, copy: int, decoding: Decoding
) -> Iterator[tuple[int, float]]:
    """Yield the tokens made for `prompt`, each with its log-probability in nats, up to and with an end token.

    Args:
        model: Counted.
        prompt: Token ids, which begin a document.
        name: 32 bits that name the prompt, for sampling.
        copy: Which of several texts for it this is.
        decoding: Checked settings.

    Raises:
        UserError: Beam search is asked for.
    """
    if decoding.method == "beam":
        raise UserError("decoding.method is beam, which n-gram models do not do: use greedy or sample")
    most, start = decoding.max_new_tokens, len(prompt)
    row = np.zeros((1, start + most), np.int32)
    row[0, :start] = prompt
    sampling = key(decoding.seed, "sampling", np.uint32(name), np.uint32(copy))
    for made in range(most):
        filled = start + made
        found = model.next_log_probs(row[0, :filled])
        scores = jnp.asarray(found, jnp.float32)[None]
        scores = constrain(scores, row, np.ones(row.shape, bool), filled, made, decoding)
        if decoding.method == "sample":
            chosen = jax.random.categorical(jax.random.fold_in(sampling, made), cut_tail(scores, decoding)[0])
        else:
            chosen = likeliest(scores)[0]
        row[0, filled] = int(chosen)
        yield int(chosen), float(found[int(chosen)])
        if int(chosen) in decoding.stop:
            return
