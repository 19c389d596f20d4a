"""The loss of several labels, and of numbers, against torch's: its value, its gradient and what counts as right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.train.loss import label_loss

ROWS, SLOTS, WIDTH = 3, 5, 8


def problem(kind, labels, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    targets = draw(ROWS, SLOTS, labels)
    if kind == "multi_label":
        targets = (targets > 0.3).astype(np.float32)
    weights = (rng.random((ROWS, SLOTS)) < 0.7).astype(np.float32) * rng.random((ROWS, SLOTS)).astype(np.float32)
    return draw(ROWS, SLOTS, WIDTH), draw(labels, WIDTH), draw(labels), targets, weights


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("kind", ["multi_label", "regression"])
@pytest.mark.parametrize("labels", [1, 3])
def test_value_and_gradient_are_torchs(kind, labels, with_bias):
    torch = pytest.importorskip("torch")
    hidden, kernel, bias, targets, weights = problem(kind, labels)
    parts = [hidden, kernel, *([bias] if with_bias else [])]

    theirs = [torch.tensor(part, requires_grad=True) for part in parts]
    scores = theirs[0] @ theirs[1].T + (theirs[2] if with_bias else 0)
    functions = torch.nn.functional
    loss = functions.mse_loss if kind == "regression" else functions.binary_cross_entropy_with_logits
    each = loss(scores, torch.tensor(targets), reduction="none").mean(-1)  # of an example's labels, as Trainer's
    expected = (torch.tensor(weights) * each).sum()
    (0.37 * expected).backward()

    def ours(*parts):
        sums = label_loss(kind, parts[0], parts[1], parts[2] if with_bias else None, targets, weights)
        return sums.total * 0.37, sums

    (_, sums), gradients = jax.value_and_grad(ours, argnums=tuple(range(len(parts))), has_aux=True)(*parts)
    np.testing.assert_allclose(sums.total, expected.item(), rtol=1e-5)
    assert sums.nll == sums.total
    np.testing.assert_allclose(sums.weight, weights.sum(), rtol=1e-6)
    for got, want in zip(gradients, theirs, strict=True):
        want = want.grad.numpy()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    right = (scores.detach().numpy() > 0) == (targets > 0.5)
    counted = np.sum(weights * right.mean(-1)) if kind == "multi_label" else 0.0
    np.testing.assert_allclose(sums.correct, counted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_what_has_no_weight_has_no_gradient_and_no_share(kind):
    hidden, kernel, bias, targets, weights = problem(kind, 2)
    weights[0], weights[1] = 0, 1
    total = lambda hidden: label_loss(kind, hidden, kernel, bias, targets, weights).total  # noqa: E731
    value, gradient = jax.value_and_grad(total)(hidden)
    hidden[0] = 1e4
    again, same = jax.value_and_grad(total)(hidden)
    assert value == again and not np.any(gradient[0]) and np.any(gradient[1])
    np.testing.assert_array_equal(gradient, same)


EXTREME = [(1e4, 1, 0), (1e4, 0, 1e4), (-1e4, 0, 0), (-1e4, 1, 1e4), (0, 1, np.log(2))]


@pytest.mark.parametrize(("logit", "target", "loss"), EXTREME)
def test_sigmoids_of_extreme_logits_stay_finite(logit, target, loss):
    kernel, targets, weights = jnp.ones((1, 1)), jnp.full((1, 1, 1), target), jnp.ones((1, 1))
    found = lambda hidden: label_loss("multi_label", hidden, kernel, None, targets, weights).total  # noqa: E731
    value, gradient = jax.value_and_grad(found)(jnp.full((1, 1, 1), float(logit)))
    assert float(value) == pytest.approx(loss, rel=1e-6)
    assert float(gradient[0, 0, 0]) == pytest.approx(float(logit > 0 or 0.5 * (logit == 0)) - target, abs=1e-6)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_low_precision_products_keep_float32_sums(kind):
    hidden, kernel, bias, targets, weights = problem(kind, 4)
    exact = label_loss(kind, hidden, kernel, bias, targets, weights)
    rough = label_loss(kind, jnp.asarray(hidden, jnp.bfloat16), kernel, bias, targets, weights)
    assert rough.total.dtype == jnp.float32
    np.testing.assert_allclose(rough.total, exact.total, rtol=2e-2)
