"""The named random streams, and the counter-based permutation that orders the data.

Everything random is a function of (seed, stream, indices): nothing is carried from one step to the next, so a run can
start anywhere. Streams are numbered for ever: renumbering one would change every run made before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax

STREAMS = {"init": 0, "corruption": 1, "dropout": 2, "evaluation": 3, "sampling": 4, "adapter": 5}

ROUNDS = 8  # of the Feistel network: more than the 4 that make a strong pseudorandom permutation of ideal rounds


def key(seed: int, stream: str, *indices: int | jax.Array) -> jax.Array:
    """Return the threefry key of `stream` at `indices` (for example step, row): a scalar typed key, traceable.

    Threefry on every backend and every mesh gives the same bits, which is what makes a corrupted batch the same
    wherever it is computed.
    """
    import jax

    result = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAMS[stream])
    for index in indices:
        result = jax.random.fold_in(result, index)
    return result


def _mix(x: np.ndarray) -> np.ndarray:
    """Return a well-mixed uint64 for each uint64 of `x` (the finaliser of splitmix64; Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(indices: np.ndarray, size: int, *seeds: int) -> np.ndarray:
    """Return where each of `indices` goes under the permutation of range(size) named by `seeds`, in O(1) memory.

    A balanced Feistel network on the smallest power of four that holds `size`, walking the cycle until it lands below
    `size` (Black and Rogaway, 2002, section 3): under four network passes an index on average. numpy promises no
    stability for `Generator.permutation`, and a stored permutation does not scale.

    Args:
        indices: int[N], each in [0, size).
        size: Number of elements permuted, at least 1.
        seeds: Any integers, for example (seed, source, epoch).

    Returns:
        int64[N], each in [0, size); a bijection over range(size).
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    with np.errstate(over="ignore"):  # uint64 arithmetic is meant to wrap
        name = np.zeros(1, np.uint64)
        for seed in seeds:
            name = _mix(name + np.uint64(0x9E3779B97F4A7C15) + np.asarray([seed], np.int64).astype(np.uint64))
        rounds = [_mix(name + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)) for i in range(ROUNDS)]

        def network(x: np.ndarray) -> np.ndarray:
            left, right = x >> half, x & low
            for round_key in rounds:
                left, right = right, left ^ (_mix(right + round_key) & low)
            return (left << half) | right

        result = network(np.asarray(indices, np.int64).astype(np.uint64))
        outside = np.flatnonzero(result >= np.uint64(size))
        while outside.size:
            result[outside] = network(result[outside])
            outside = outside[result[outside] >= np.uint64(size)]
    return result.astype(np.int64)
