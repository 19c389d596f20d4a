"""How many operations a second this machine does in matrix products: the roof over any step of training."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from experiments.work import Work

Shape = tuple[int, int, int]  # [m, k] times [k, n]
TIMED = 3  # measurements of each product; the median counts
SECONDS = 0.05  # that a measurement takes, at least


def shapes(work: Work, accelerator: bool) -> list[Shape]:
    """Return the products that are tried: the step's own largest, and squares that fill the machine."""
    tokens = work.batch * work.length
    inside = [(tokens, work.width, 4 * work.width), (tokens, 4 * work.width, work.width)]
    return inside + [(side, side, side) for side in ((4096, 8192) if accelerator else (1024, 2048))]


def roof(products: list[Shape], dtype: str) -> Callable[[], float]:
    """Return a function that returns the operations a second of the fastest of `products`, measured when it is called.

    A multiplication and its addition are two operations. Products are of the form that has the fastest code
    everywhere: bfloat16 operands have a float32 result on CPUs (see research/models/product.py).
    """
    import jax
    import jax.numpy as jnp

    result = jnp.float32 if jax.default_backend() == "cpu" else jnp.dtype(dtype)
    multiply = jax.jit(functools.partial(jnp.dot, preferred_element_type=result))
    draw = np.random.default_rng(0)
    ready = []
    for m, k, n in products:
        x, y = (jnp.asarray(draw.standard_normal(size, np.float32)).astype(dtype) for size in ((m, k), (k, n)))
        once = _seconds(multiply, x, y, 1)  # compiles
        once = _seconds(multiply, x, y, 1)
        ready.append((2 * m * k * n, x, y, math.ceil(SECONDS / once)))

    def fastest() -> float:
        rates = []
        for operations, x, y, times in ready:
            seconds = statistics.median(_seconds(multiply, x, y, times) for _ in range(TIMED))
            rates.append(operations / seconds)
        return max(rates)

    return fastest


def _seconds(multiply: Callable, x, y, times: int) -> float:
    """Return the seconds that one of `times` products takes."""
    started = time.perf_counter()
    for _ in range(times):
        made = multiply(x, y)
    made.block_until_ready()
    return (time.perf_counter() - started) / times
