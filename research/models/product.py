"""Matrix products of bfloat16 operands, in the forms for which a CPU's matrix units (AMX) have code.

XLA:CPU has such code for bfloat16 operands with a float32 result, where the left one is summed over its last axis. All
other products of bfloat16 are converted to float32 first, and take two to five times as long. On GPUs and TPUs all forms
are alike, and a bfloat16 result is less to write.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return x @ kernel, [N, F] of [N, D] and [D, F] of one dtype; float32 where a CPU multiplies bfloat16."""
    if x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        return _product(x, kernel)
    return x @ kernel


@jax.custom_vjp
def _product(x, kernel):
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32)


def _forward(x, kernel):
    return _product(x, kernel), (x, kernel)


def _backward(kept, cotangent):
    x, kernel = kept
    d_y = cotangent.astype(x.dtype)
    d_x = jnp.einsum("nf,df->nd", d_y, kernel, preferred_element_type=jnp.float32)
    d_kernel = jnp.dot(_transposed(x), d_y, preferred_element_type=jnp.float32)
    return d_x.astype(x.dtype), d_kernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)


def _transposed(x):
    """Return [D, N] of [N, D], by way of three axes: XLA makes a plain transpose part of the product, which is then slow."""
    rows, width = x.shape
    parts = next((parts for parts in (16, 8, 4, 2) if rows % parts == 0), 1)
    return jax.lax.optimization_barrier(x.reshape(parts, -1, width).transpose(2, 0, 1)).reshape(width, rows)
