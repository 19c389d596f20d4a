"""Masks, buckets and the weighted sum, each against a slow reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.attention import attend, attend_past, cross_mask, past_part, relative_bucket, self_mask, toeplitz
from research.models.layers import gelu, index_in_document
from tests.models.oracles import attention


def test_attend_equals_the_slow_oracle_and_a_blind_query_gets_zeros():
    draw = np.random.default_rng(0)
    query, key, value = (draw.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (5, 6, 6))
    mask = draw.random((2, 1, 5, 6)) < 0.5
    mask[1, 0, 2] = False
    out = np.asarray(attend(query, key, value, mask=jnp.asarray(mask), scale=0.5))
    for b in range(2):
        for h in range(3):
            expected = attention(query[b, :, h], key[b, :, h], value[b, :, h], mask[b, 0], 0.5)
            np.testing.assert_allclose(out[b, :, h], expected, atol=1e-6)
    assert not out[1, 2].any()


def test_a_huge_score_that_is_hidden_counts_for_nothing():
    query = jnp.full((1, 1, 1, 1), 1e18)
    key = jnp.asarray([1e18, 1.0]).reshape(1, 2, 1, 1)
    value = jnp.asarray([7.0, 3.0]).reshape(1, 2, 1, 1)
    assert attend(query, key, value, mask=jnp.asarray([[[[False, True]]]])).item() == 3.0


@pytest.mark.parametrize(("length", "parts"), [(64, 1), (100, 2), (260, 4)])
def test_the_past_in_parts_is_the_past(length, parts):
    assert -(-length // past_part(length)) == parts
    draw = np.random.default_rng(length)
    given = [jnp.asarray(draw.normal(size=(2, length, 2, 4)), jnp.float32) for _ in range(4)]
    bias = jnp.asarray(draw.normal(size=(1, 2, length, length)), jnp.float32)
    segments = jnp.asarray(np.sort(draw.integers(0, 4, (2, length)), axis=1))
    how = {"mask": self_mask(length, segments, causal=True), "scale": 0.5, "dropout": lambda weights: weights}

    def pulled(function):
        value, pull = jax.vjp(lambda q, k, v, bias: function(q, k, v, bias=bias, **how), *given[:3], bias)
        return value, *pull(given[3])

    for found, wanted in zip(pulled(attend_past), pulled(attend), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 12), (64, 500)])
def test_buckets_are_those_of_transformers(bidirectional, buckets, furthest):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = np.arange(-2100, 2101)
    here = relative_bucket(jnp.asarray(distance), bidirectional=bidirectional, buckets=buckets, furthest=furthest)
    there = t5.T5Attention._relative_position_bucket(torch.tensor(distance), bidirectional, buckets, furthest)
    np.testing.assert_array_equal(here, there.numpy())


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 4), (4, 1), (3, 5), (6, 6)])
def test_toeplitz(queries, keys):
    values = np.random.default_rng(0).normal(size=(2, queries + keys - 1))
    expected = [[[v[k - q + queries - 1] for k in range(keys)] for q in range(queries)] for v in values]
    np.testing.assert_array_equal(toeplitz(jnp.asarray(values), queries, keys), np.asarray(expected, np.float32))


def test_masks():
    segments = jnp.asarray([[1, 1, 2, 0]])
    assert self_mask(4, None, causal=False) is None
    assert self_mask(4, None, causal=True).shape == (1, 1, 4, 4)
    full = np.asarray(self_mask(4, segments, causal=False))[0, 0].astype(int).tolist()
    assert full == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    prefix = jnp.asarray([[True, True, False, False]])
    causal = np.asarray(self_mask(4, segments, causal=True, prefix=prefix))[0, 0].astype(int).tolist()
    assert causal == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert cross_mask(segments, None) is None
    assert np.asarray(cross_mask(None, segments)).astype(int).tolist() == [[[[1, 1, 1, 0]]]]
    across = np.asarray(cross_mask(segments, jnp.asarray([[2, 1]])))[0, 0].astype(int).tolist()
    assert across == [[0, 1], [0, 1], [1, 0], [0, 0]]


def test_index_in_document():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 3, 0, 0], [1] * 8, [0] * 8])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], list(range(8)), list(range(8))]
    assert np.asarray(index_in_document(segments)).tolist() == expected


def test_gelu_is_the_exact_one():
    from math import erf

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [0.5 * float(v) * (1 + erf(float(v) / 2**0.5)) for v in x]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)
