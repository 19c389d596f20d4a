import platform
import subprocess
import sys

import pytest

from research.train import heap

SCRIPT = """
import resource, sys
from research.train import heap
if "keep" in sys.argv:
    assert heap.share() and heap.keep(1, 100)
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    return jnp.sin(x[:, None] * x) @ x  # of a matrix of 64 MB

x = jnp.ones(4096)
faults = [0]
for _ in range(30):  # at first the heap grows now and then
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-6])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_step_finds_the_memory_that_the_last_one_left():
    kept, untold = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, *how], capture_output=True, text=True, check=True).stdout)
        for how in (["keep"], [])
    )
    assert kept < 1000 < untold


def test_memory_that_is_scarce_is_not_kept():
    assert not heap.keep(26, 100)
