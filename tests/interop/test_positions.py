"""Position tables are cut or continued; what a model computes within both lengths stays the same."""

import jax
import numpy as np
import pytest

from research.interop.positions import resize_positions
from research.models.heads import logits
from research.models.paths import flatten
from research.models.build import initial_parameters
from research.models.transformer import Transformer
from research.types import UserError
from tests.models.oracles import ARCHS


@pytest.mark.parametrize("name", [pytest.param("roberta", marks=pytest.mark.slow), "gpt2", "bart"])
def test_a_table_is_cut_or_repeated_after_its_offset(name):
    arch = ARCHS[name]
    params = initial_parameters(arch, jax.random.key(0))
    tables = [path for path in flatten(params) if path.endswith("positions/embedding")]
    assert len(tables) == (2 if name == "bart" else 1)
    first = arch.position_offset
    for length in (7, 20, 33, 50):
        new, resized = resize_positions(params, arch, length)
        assert resized.max_length == length
        for path, leaf in flatten(new).items():
            was = np.asarray(flatten(params)[path])
            if path not in tables:
                assert leaf is flatten(params)[path]
                continue
            assert leaf.shape == (first + length, 24)
            np.testing.assert_array_equal(leaf[:first], was[:first])
            for position in range(length):
                np.testing.assert_array_equal(leaf[first + position], was[first + position % 20])
        rows = np.arange(2, 9)[None]
        inputs = {"tokens": rows} | ({"source": rows} if name == "bart" else {})
        np.testing.assert_array_equal(
            logits(Transformer(resized), new, **inputs), logits(Transformer(arch), params, **inputs)
        )


def test_what_cannot_be_resized():
    with pytest.raises(UserError, match="fits any length"):
        resize_positions({}, ARCHS["t5"], 10)
    with pytest.raises(UserError, match="max_length is 0"):
        resize_positions({}, ARCHS["gpt2"], 0)
