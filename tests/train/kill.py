"""A stand-in for a process that is killed while it trains."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest

from research.train import loop


class Killed(BaseException):
    """Stands for a kill: nothing in the loop handles it."""


@contextlib.contextmanager
def killed_before_saving(step: int) -> Iterator[None]:
    """Kill the training that is called in this context when it is about to save `step`."""

    class Fatal(loop.Checkpoints):
        def save(self, at, *arguments):
            if at == step:
                raise Killed
            super().save(at, *arguments)

    with mock.patch.object(loop, "Checkpoints", Fatal), pytest.raises(Killed):
        yield
