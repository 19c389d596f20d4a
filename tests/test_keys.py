"""Golden values and laws of the named random streams and of the permutation that orders the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.keys import STREAMS, key, permute

seeds = st.integers(-(2**63), 2**63 - 1)


def test_permutation_never_changes():
    """These values are every shuffled run ever made: never edit them."""
    assert list(permute(np.arange(10), 10, 0, 0)) == [3, 9, 5, 2, 4, 0, 7, 8, 1, 6]
    assert list(permute(np.arange(7), 7, 1, 2, 3)) == [3, 4, 1, 6, 0, 5, 2]
    assert list(permute(np.array([0, 1, 10**12]), 10**12 + 1, 2**40, -1)) == [786312746946, 78196320099, 776566517866]


@given(size=st.integers(1, 3000), names=st.lists(seeds, max_size=3))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size, names):
    assert sorted(permute(np.arange(size), size, *names)) == list(range(size))


@given(size=st.integers(1, 2**50), seed=seeds, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_index_can_be_asked_for_alone(size, seed, data):
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
    together = permute(np.array(indices), size, seed)
    assert ((together >= 0) & (together < size)).all()
    assert list(together) == [int(permute(np.array([i]), size, seed)[0]) for i in indices]


def test_permutation_depends_on_every_seed():
    names = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0)]
    assert len({tuple(permute(np.arange(100), 100, *each)) for each in names}) == len(names)


def test_permutation_looks_uniform():
    """Each of 8 places is taken by each of 8 elements in 1/8 of 2,000 permutations, within 5 standard deviations."""
    counts = np.zeros((8, 8), int)
    for seed in range(2000):
        counts[np.arange(8), permute(np.arange(8), 8, seed)] += 1
    assert np.abs(counts - 250).max() < 5 * np.sqrt(2000 * (1 / 8) * (7 / 8))


def test_keys_never_change():
    """Threefry bits of streams at fixed indices: initialisation and masks of every run ever made."""
    import jax

    assert STREAMS == {"init": 0, "corruption": 1, "dropout": 2, "evaluation": 3, "sampling": 4, "adapter": 5}
    assert jax.random.key_data(key(0, "init")).tolist() == [1797259609, 2579123966]
    assert jax.random.key_data(key(7, "corruption", 3, 11)).tolist() == [3319753994, 117406984]
    assert jax.random.key_data(key(0, "adapter")).tolist() == [1524306142, 1887795613]


def test_keys_differ_by_seed_stream_and_index():
    import jax

    keys = [key(seed, stream, i) for seed in (0, 1) for stream in STREAMS for i in (0, 1)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == len(keys)


def test_keys_are_the_same_inside_jit_and_vmap():
    import jax
    import jax.numpy as jnp

    traced = jax.jit(jax.vmap(lambda row: jax.random.key_data(key(5, "corruption", 2, row))))(jnp.arange(4))
    assert traced.tolist() == [jax.random.key_data(key(5, "corruption", 2, row)).tolist() for row in range(4)]


def test_unknown_stream_is_an_error():
    with pytest.raises(KeyError):
        key(0, "weather")
