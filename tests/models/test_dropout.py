"""Masks by their laws: the rate, the mean, no pattern along any axis, and one function of key and place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.keys import key
from research.models.dropout import Dropout, drop, random_bits

KEY = jax.random.key(0)


def bits(shape, key=KEY):
    """Each word's 32 bits as -1 and 1: float64[*shape, 32]."""
    words = np.asarray(random_bits(key, shape))
    return 2.0 * ((words[..., None] >> np.arange(32, dtype=np.uint32)) & 1) - 1


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.9])
def test_the_rate_is_kept_and_so_is_the_mean(rate):
    x = jnp.ones((64, 8, 512))
    y = np.asarray(drop(x, rate, KEY))
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - rate))}
    error = 5 * np.sqrt(rate * (1 - rate) / x.size)
    assert np.mean(y == 0) == pytest.approx(rate, abs=error)
    for axis in range(3):  # no row, no column is dropped more than another
        each = np.mean(y == 0, axis=tuple(i for i in range(3) if i != axis))
        assert np.abs(each - rate).max() < 5 * np.sqrt(rate * (1 - rate) * len(each) / x.size)


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 64), (128, 0), (0, 2), (256, 256)])
def test_neighbours_are_independent_bit_by_bit(shift):
    found = bits((512, 512))
    other = np.roll(found, shift, axis=(0, 1))
    assert np.abs(np.mean(found * other, axis=(0, 1))).max() < 6 / np.sqrt(found.shape[0] * found.shape[1])


def test_bits_are_even_and_independent_of_one_another():
    found = bits((512, 512)).reshape(-1, 32)
    assert np.abs(found.mean(0)).max() < 6 / np.sqrt(len(found))
    correlation = found.T @ found / len(found) - np.eye(32)
    assert np.abs(correlation).max() < 6 / np.sqrt(len(found))


def test_keys_and_places_have_masks_of_their_own():
    one, other = bits((512, 512)), bits((512, 512), jax.random.key(1))
    assert abs(np.mean(one * other)) < 6 / np.sqrt(one.size)
    words = np.asarray(random_bits(KEY, (1024, 1024)))
    assert len(np.unique(words)) > words.size - 400  # of 2^20 random words some 128 come twice


def test_bits_never_change():
    """Or every run that drops anything would go on otherwise than it began."""
    found = np.asarray(random_bits(key(0, "dropout", 3, 0), (1, 2, 3)))
    assert found.tolist() == [[[579497390, 1749808779, 243170621], [1656770480, 2479949123, 993346587]]]
    flat = np.asarray(random_bits(KEY, (12, 8)))
    np.testing.assert_array_equal(random_bits(KEY, (3, 4, 8)), flat.reshape(3, 4, 8))  # rows are numbered through


def test_a_mask_of_one_axis_and_of_a_low_precision():
    y = drop(jnp.ones(1000, jnp.bfloat16), 0.5, KEY)
    assert y.dtype == jnp.bfloat16 and 400 < np.sum(np.asarray(y) == 0) < 600


def test_the_module_draws_one_mask_a_call_and_none_where_nothing_is_dropped():
    x = jnp.ones((8, 64))
    apply = lambda rate, deterministic: Dropout(rate).apply({}, x, deterministic, rngs={"dropout": KEY})  # noqa: E731
    np.testing.assert_array_equal(apply(0.5, False), apply(0.5, False))
    assert np.any(apply(0.5, False) == 0)
    np.testing.assert_array_equal(apply(0.5, True), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, False), x)  # asks for no rng
