"""Mixtures of models: p(token) = sum_i w_i p_i(token), with the weights that a held-out text is likeliest under."""

from __future__ import annotations

import numpy as np

from research.types import UserError

GAIN = 1e-9  # nats a token: EM ends at the first step that gains less


def fitted(log_probs: np.ndarray) -> np.ndarray:
    """Return float64[M], which sum to 1: the weights of the mixture under which N tokens are likeliest.

    EM from equal weights (Jelinek and Mercer, 1980). The log-likelihood is concave in the weights: there is no other
    height that EM could end at.

    Args:
        log_probs: float64[M, N], natural logarithms of the probability that each of M models gives each token.

    Raises:
        UserError: There is no token; a loss is not a number; or a token is impossible under every model: mix in one
            that is smoothed.
    """
    if not log_probs.size:
        raise UserError("no tokens to fit the weights of a mixture on: the held-out text is too short")
    if np.isnan(log_probs).any():
        wrong = int(np.isnan(log_probs).any(axis=1).argmax()) + 1
        raise UserError(f"model {wrong} of {len(log_probs)} gives losses that are no numbers: leave it out")
    most = np.max(log_probs, axis=0)
    impossible = int(np.sum(np.isneginf(most)))
    if impossible:
        raise UserError(
            f"{impossible} of {len(most)} tokens are impossible under every model: mix in one that is smoothed"
        )
    shares = np.exp(log_probs - most)  # relative to the likeliest, of which no sum underflows; and only once
    weights = np.full(len(shares), 1 / len(shares))
    before = -np.inf
    while True:
        mixture = weights @ shares
        after = float(np.mean(np.log(mixture)))
        if after - before < GAIN:
            return weights
        weights = weights * (shares @ (1 / mixture)) / len(mixture)  # the mean share of each part in each token
        before = after


def mixed(log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return float64[N]: the natural-log probability of each token under the mixture of `log_probs` float64[M, N]."""
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(log_probs + np.log(weights)[:, None], axis=0)
