"""What becomes of memory that XLA:CPU frees: it is kept for the next step, instead of handed back to the system.

XLA:CPU allocates the temporaries of a program (700 MB in a step of GPT-2 of 4 blocks x 256 on 4,096 tokens) anew each
time it is called. glibc takes blocks of that size from the system and gives them back at once, so every step began with
180,000 page faults and as many pages to clear, which took a fourth to two fifths of its time on a virtual machine.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
TIMES = 4  # at worst the heap grew to this many times the temporaries: an aligned block needs a larger one to fit in


def share() -> bool:
    """Have all threads that start from now on allocate from one heap, the only one that may hold large blocks.

    To be called before JAX starts its threads. Return whether the C library knows how: glibc does.
    """
    return _mallopt(ARENA_MAX, 1)


def keep(needed: int, free: int) -> bool:
    """Have the heap keep what is freed, where `free` bytes hold some times the `needed` ones; return whether it does."""
    return TIMES * needed <= free and _mallopt(MMAP_MAX, 0) and _mallopt(TRIM_THRESHOLD, -1)


def _mallopt(parameter: int, value: int) -> bool:
    function = getattr(ctypes.CDLL(None), "mallopt", None)
    return function is not None and function(parameter, value) == 1
