"""A large vocabulary costs its table and what belongs to it, and nothing for each position of a batch."""

import jax
import jax.numpy as jnp
import pytest

from experiments.bench_loop import LARGE, SMALL, reserved, tables
from experiments.work import Work
from research.train.loss import vocabulary_loss
from tests.train.test_memory import QUICK

ROWS, LENGTH, WIDTH = 16, 256, 64


def test_the_loss_of_a_large_vocabulary_takes_no_more_memory_apart_from_its_table():
    def loss(hidden, kernel, targets, weights):
        return vocabulary_loss(hidden, kernel, None, targets, weights).total

    def apart(size):
        shapes = [(ROWS, LENGTH, WIDTH), (size, WIDTH), (ROWS, LENGTH), (ROWS, LENGTH)]
        types = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
        described = [jax.ShapeDtypeStruct(*each) for each in zip(shapes, types, strict=True)]
        found = jax.jit(jax.grad(loss, (0, 1))).lower(*described).compile(QUICK).memory_analysis()
        return found.temp_size_in_bytes - 4 * size * WIDTH  # the gradient is summed beside the one that is returned

    assert apart(SMALL) < 4 * ROWS * LENGTH * SMALL / 2  # less than half of its logits
    assert apart(LARGE) <= 1.15 * apart(SMALL)


@pytest.mark.slow
def test_a_step_of_a_large_vocabulary_takes_no_more_memory_apart_from_its_table():
    small, large = (Work("clm", vocabulary=size) for size in (SMALL, LARGE))
    apart = [reserved(work, QUICK) - tables(work) for work in (small, large)]
    assert apart[1] <= 1.15 * apart[0]
