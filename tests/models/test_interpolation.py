"""Weights of mixtures: the laws of a likelihood's optimum, and the optimum that another method finds."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from research.models.interpolation import fitted, mixed
from research.types import UserError

NEAR = 1e-4  # nats a token: two nearly equal models leave EM that far from the top, when it gains no more a step
tables = st.tuples(st.integers(1, 5), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-12, 0))
)


def likelihood(log_probs, weights):
    """Return the mean log-likelihood, by the definition."""
    return np.mean(np.log(weights @ np.exp(log_probs)))


def drawn(models, tokens, spread=1.0, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(-5, 2, tokens) + draw.normal(0, spread, (models, tokens)) - 0.1 * np.arange(models)[:, None]


@settings(max_examples=150, deadline=None)
@given(tables)
def test_weights_are_a_distribution_whose_mixture_is_no_worse_than_any_part(log_probs):
    weights = fitted(log_probs)
    assert weights.shape == (len(log_probs),) and (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert likelihood(log_probs, weights) >= log_probs.mean(axis=1).max() - NEAR


@settings(max_examples=60, deadline=None)
@given(tables)
def test_no_other_weights_are_better(log_probs):
    count = len(log_probs)
    probs = np.exp(log_probs)
    found = minimize(
        lambda w: -np.mean(np.log(w @ probs)),
        np.full(count, 1 / count),
        jac=lambda w: -np.mean(probs / (w @ probs), axis=1),
        bounds=[(1e-9, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
    )
    best = np.clip(found.x, 0, None) / np.clip(found.x, 0, None).sum()
    assert likelihood(log_probs, fitted(log_probs)) >= likelihood(log_probs, best) - NEAR


def test_weights_of_many_tokens_are_those_where_the_likelihood_is_level():
    log_probs = drawn(4, 20_000)
    weights = fitted(log_probs)
    assert (weights > 0.05).all()
    mixture = weights @ np.exp(log_probs)
    np.testing.assert_allclose(np.mean(np.exp(log_probs) / mixture, axis=1), 1, atol=1e-3)  # the gradient, in all of them


@settings(max_examples=60, deadline=None)
@given(tables, st.randoms())
def test_the_order_of_the_parts_does_not_matter(log_probs, random):
    order = random.sample(range(len(log_probs)), len(log_probs))
    np.testing.assert_allclose(fitted(log_probs[order]), fitted(log_probs)[order], atol=1e-9)


def test_a_part_that_is_likelier_everywhere_has_all_the_weight():
    log_probs = drawn(1, 500) - np.array([[0.5], [0.0], [2.0]])
    np.testing.assert_allclose(fitted(log_probs), [0, 1, 0], atol=1e-6)


def test_equal_parts_have_equal_weights():
    one, other = drawn(2, 500)
    weights = fitted(np.stack([one, other, one]))
    assert weights[0] == pytest.approx(weights[2], abs=1e-12) and weights[1] > 0.1
    np.testing.assert_array_equal(fitted(np.stack([one, one])), [0.5, 0.5])


def test_weights_of_a_known_mixture_are_found_again():
    draw = np.random.default_rng(0)
    probs = draw.dirichlet(np.ones(50), 3)
    true = np.array([0.6, 0.3, 0.1])
    tokens = draw.choice(50, 40_000, p=true @ probs)
    np.testing.assert_allclose(fitted(np.log(probs[:, tokens])), true, atol=0.02)


def test_probabilities_far_below_the_least_float_do_no_harm():
    log_probs = drawn(3, 300)
    np.testing.assert_allclose(fitted(log_probs - 2000), fitted(log_probs), atol=1e-9)
    np.testing.assert_allclose(mixed(log_probs - 2000, fitted(log_probs)), mixed(log_probs, fitted(log_probs)) - 2000)


def test_a_mixture_is_the_sum_of_its_parts():
    log_probs, weights = drawn(3, 40), np.array([0.7, 0.3, 0.0])
    np.testing.assert_allclose(mixed(log_probs, weights), np.log(weights @ np.exp(log_probs)), rtol=1e-12)


def test_what_one_part_thinks_impossible_another_makes_up_for():
    log_probs = np.array([[-np.inf, -0.1, -0.1], [-3.0, -3.0, -3.0]])
    weights = fitted(log_probs)
    assert 0.5 < weights[0] < 1 and np.isfinite(mixed(log_probs, weights)).all()
    with pytest.raises(UserError, match="1 of 3 tokens are impossible under every model: mix in one that is smoothed"):
        fitted(np.array([[-np.inf, -0.1, -0.1], [-np.inf, -3.0, -3.0]]))


def test_nothing_to_fit_on_and_losses_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="no tokens to fit the weights of a mixture on"):
        fitted(np.zeros((2, 0)))
    with pytest.raises(UserError, match="model 2 of 2 gives losses that are no numbers: leave it out"):
        fitted(np.array([[-0.1, -0.1], [-0.1, np.nan]]))


def test_it_loads_nothing_heavy():
    code = "import sys, research.models.interpolation; print(*{'jax', 'scipy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
