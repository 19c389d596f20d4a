"""Fresh parameters are drawn as their scheme says, and the draws have the statistics that they name."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from research.models import preset
from research.models.initialise import draw, values
from research.models.paths import flatten, unflatten
from research.models.build import initial_parameters, parameter_shapes

SIZES = {"vocab_size": 500, "width": 128, "layers": 2, "heads": 4, "mlp_width": 256, "max_length": 128}
ATTENTION = "block_1/self_attention/"
DEVIATION = {"cut": 0.87962566, "normal": 1.0, "uniform": 1.0}
LARGEST = {"cut": 2.0, "normal": 7.0, "uniform": 3**0.5}


def tiny(name, init="published"):
    return replace(preset(name), **SIZES, head_width=0, init=init)


compiled = jax.jit(initial_parameters, static_argnums=0)


@functools.cache
def fresh(name, init="published", seed=0):
    return flatten(compiled(tiny(name, init), jax.random.key(seed)))


@pytest.mark.parametrize(
    ("name", "init", "path", "expected"),
    [
        ("bert-nano", "published", "tokens/embedding", ("cut", 0.02)),
        ("bert-nano", "published", "encoder/" + ATTENTION + "query/kernel", ("cut", 0.02)),
        ("bert-nano", "published", "encoder/block_0/mlp/down/kernel", ("cut", 0.02)),
        ("roberta-nano", "published", "encoder/block_0/mlp/down/kernel", ("normal", 0.02)),
        ("gpt2-nano", "published", "tokens/embedding", ("normal", 0.02)),
        ("gpt2-nano", "published", "decoder/positions/embedding", ("normal", 0.01)),
        ("gpt2-nano", "published", "decoder/" + ATTENTION + "value/kernel", ("normal", 0.02)),
        ("gpt2-nano", "published", "decoder/" + ATTENTION + "out/kernel", ("normal", 0.02 / 4**0.5)),
        ("gpt2-nano", "published", "decoder/block_1/mlp/down/kernel", ("normal", 0.02 / 4**0.5)),
        ("bart-nano", "published", "decoder/block_0/cross_attention/out/kernel", ("normal", 0.02)),
        ("t5-nano", "published", "tokens/embedding", ("normal", 1.0)),
        ("t5-nano", "published", "encoder/" + ATTENTION + "query/kernel", ("normal", (128 * 32) ** -0.5)),
        ("t5-nano", "published", "encoder/" + ATTENTION + "key/kernel", ("normal", 128**-0.5)),
        ("t5-nano", "published", "decoder/block_0/mlp/down/kernel", ("normal", 256**-0.5)),
        ("t5-v1.1-nano", "published", "head/kernel", ("normal", 128**-0.5)),
        ("bert-nano", "xavier", "tokens/embedding", ("cut", 0.02)),
        ("bert-nano", "xavier", "encoder/block_0/mlp/up/kernel", ("uniform", (2 / (128 + 256)) ** 0.5)),
        ("t5-nano", "xavier", "encoder/" + ATTENTION + "query/kernel", ("uniform", (2 / 256 / 32) ** 0.5)),
        ("t5-nano", "xavier", "encoder/" + ATTENTION + "key/kernel", ("uniform", (2 / 256) ** 0.5)),
        ("bert-nano", "he", "encoder/block_0/mlp/down/kernel", ("normal", (2 / 256) ** 0.5)),
        ("t5-v1.1-nano", "he", "head/kernel", ("normal", (2 / 128) ** 0.5)),
        ("bert-nano", "depth", "encoder/block_0/mlp/up/kernel", ("normal", 0.02)),
        ("bert-nano", "depth", "encoder/block_0/mlp/down/kernel", ("normal", 0.02 / 4**0.5)),
        ("bart-nano", "depth", "encoder/" + ATTENTION + "out/kernel", ("normal", 0.02 / 4**0.5)),
        ("bart-nano", "depth", "decoder/" + ATTENTION + "out/kernel", ("normal", 0.02 / 6**0.5)),
    ],
)
def test_schemes(name, init, path, expected):
    arch = tiny(name, init)
    found = draw(arch, path, flatten(parameter_shapes(arch))[path].shape)
    assert (found.kind, found.scale) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize(("name", "init"), [("bert-nano", "published"), ("t5-v1.1-nano", "xavier")])
def test_draws_have_the_statistics_of_their_scheme(name, init):
    arch = tiny(name, init)
    for path, leaf in fresh(name, init).items():
        kind, scale = draw(arch, path, leaf.shape)
        assert leaf.dtype == np.float32
        if kind == "constant":
            assert (leaf == (1 if path.endswith("scale") else 0)).all(), path
            continue
        error = scale / np.sqrt(leaf.size)
        assert abs(leaf.mean()) < 5 * error, path
        assert abs(leaf.std() - DEVIATION[kind] * scale) < 5 * error, path
        assert np.abs(leaf).max() <= LARGEST[kind] * scale * (1 + 1e-6), path


def test_a_parameter_depends_on_its_key_and_path_alone():
    one, other = fresh("bert-nano"), fresh("bert-nano", seed=1)
    arch = tiny("bert-nano")
    shapes = flatten(parameter_shapes(arch))
    kernels = [path for path in one if path.endswith("query/kernel")]
    for path in kernels:
        alone = flatten(values(arch, unflatten({path: shapes[path]}), jax.random.key(0)))[path]
        np.testing.assert_allclose(one[path], alone, rtol=0, atol=1e-7)  # compiled or not: the last digit
        assert (one[path] != other[path]).any()
    assert (one[kernels[0]] != one[kernels[1]]).any()
