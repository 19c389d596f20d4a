"""Products of bfloat16: the same as any other's, in value, gradient and type, in the form that a CPU is fast at."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.product import product

CPU = pathlib.Path("/proc/cpuinfo")


def operands(rows, width, features):
    shapes = [(rows, width), (width, features), (rows, features)]
    return [jax.random.normal(jax.random.key(n), shape).astype(jnp.bfloat16) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize("rows", [1, 7, 6, 48])
def test_values_and_gradients_are_those_of_float32_to_one_rounding(rows):
    x, kernel, slope = operands(rows, 24, 40)
    y, pull = jax.vjp(product, x, kernel)
    want, pull_wide = jax.vjp(jnp.dot, x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)
    for mine, wide in zip(pull(slope.astype(jnp.float32)), pull_wide(slope.astype(jnp.float32)), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), wide, rtol=2**-8, atol=1e-4)


@pytest.mark.skipif(not CPU.is_file() or "amx_bf16" not in CPU.read_text(), reason="this CPU has no units for bfloat16 matrices")
def test_no_operand_is_widened_before_it_is_multiplied():
    def loss(x, kernel):
        return jnp.sum(jnp.square(product(x, kernel)))

    x, kernel, _ = operands(512, 256, 256)
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    assert len(products) == 3
    shapes = {line.split()[0]: line.split()[2] for line in text.splitlines() if line.lstrip().startswith("%") and " = " in line}
    for line in products:
        for operand in line.split(" dot(")[1].split(")")[0].split(", "):
            assert shapes[operand].startswith("bf16"), line


def test_float32_is_left_as_it_is():
    x, kernel, _ = (each.astype(jnp.float32) for each in operands(16, 8, 4))
    assert (product(x, kernel) == x @ kernel).all()
