"""The examples in the docstrings are true."""

import doctest
import importlib

import jax
import pytest

from research.objectives import OBJECTIVES


@pytest.fixture
def compile_fast():
    """Half the compile time, and the same integers."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_docstring_examples(name, compile_fast):
    result = doctest.testmod(importlib.import_module(OBJECTIVES[name].__module__))
    assert result.attempted >= 4 and result.failed == 0
