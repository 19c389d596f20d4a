"""What stands around the step is measured on runs that could start; a large vocabulary costs its table alone."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments.bench_loop import LARGE, PARTS, SMALL, real_run, reserved, tables
from experiments.work import FAMILIES, Work
from research.config import check
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


@pytest.mark.parametrize("objective", FAMILIES)
def test_the_real_run_could_start(objective):
    run = real_run(Work(objective), 50)
    check(run)
    assert run.data.sources[0].path == "pydocs" and run.data.tokenizer.size == run.arch.vocab_size == 8192
    assert run.steps == 50 and 0 < run.log_every < run.save_every < run.steps


FIGURES = {"overhead": ("ratio", "ratio_spread", "step_s"), "loader": ("tokens_per_s",), "use": ("tokens_per_s", "over_training")}


@pytest.mark.slow  # half a minute each: pydocs is read, and steps are compiled
@pytest.mark.parametrize("part", FIGURES)
def test_a_part_gives_its_figures(part, tmp_path, monkeypatch):
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path))
    work = Work("clm", batch=2, length=64, width=32, layers=1, vocabulary=512)
    [row] = PARTS[part](work, 1)
    assert {"spread", *FIGURES[part]} <= row.keys() and json.loads(json.dumps(row))
