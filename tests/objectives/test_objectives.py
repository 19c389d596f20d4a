"""Laws of every objective: the table, static sizes, and the same example of a key whatever is computed beside it."""

import ast
import dataclasses
import inspect
import subprocess
import sys

import jax
import numpy as np
import pytest

from research.objectives import PRETRAINING, Causal, Denoising, Masked, Mixture, Prefix, SpanCorruption
from tests.objectives.rows import VOCABULARY, examples, jit, keys, rows

LENGTH = 48
ALL = (Masked(rate=0.3), Masked(rate=0.3, unit="span"), Causal(), Prefix(), SpanCorruption(), Denoising(), Mixture())
NAMES = [f"{type(o).__name__}-{getattr(o, 'unit', '')}" for o in ALL]


def test_the_table_names_every_objective():
    assert list(PRETRAINING) == ["masked", "causal", "prefix", "span_corruption", "denoising", "mixture"]
    assert {type(o) for o in ALL} == set(PRETRAINING.values())


def test_importing_objectives_does_not_import_jax():
    code = "import sys, research.objectives; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_field_is_typed_documented_and_defaulted(name):
    cls = PRETRAINING[name]
    assert cls.__dataclass_params__.frozen and hash(cls()) == hash(cls())
    body = ast.parse(inspect.getsource(cls)).body[0].body
    documented = {
        a.target.id
        for a, b in zip(body, body[1:], strict=False)
        if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant)
    }
    assert {f.name for f in dataclasses.fields(cls)} <= documented
    assert cls.structures[0] in ("encoder", "decoder", "encoder-decoder") and set(cls.needs) <= set(VOCABULARY._fields)


@pytest.mark.parametrize("objective", [o for o in ALL if o.structures[0] == "encoder-decoder"], ids=lambda o: type(o).__name__)
def test_a_decoder_begins_with_the_token_that_the_objective_names(objective):
    example = examples(objective, 11, rows(11, LENGTH))
    real = np.asarray(example.inputs["segments"][:, 0]) > 0
    assert real.any()
    assert set(np.asarray(example.inputs["tokens"])[real, 0]) == {getattr(VOCABULARY, objective.start)}


@pytest.mark.parametrize("objective", ALL, ids=NAMES)
def test_a_key_gives_the_same_example_in_any_batch(objective):
    record = rows(11, LENGTH + objective.lookahead)
    batch = examples(objective, 11, record)
    order = np.random.default_rng(0).permutation(16)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), batch, examples(objective, 11, record, order))
    alone = jit(lambda key, row: objective(key, row, VOCABULARY))
    for r in (0, 5, 12):  # unbatched: other loops, other fusions
        row = alone(keys(11, 16)[r], {name: side[r] for name, side in record.items()})
        jax.tree.map(lambda a, b, r=r: np.testing.assert_array_equal(a[r], np.asarray(b)), batch, row)


@pytest.mark.parametrize("objective", ALL, ids=NAMES)
def test_sizes_and_types_are_static_and_empty_rows_weigh_nothing(objective):
    example = examples(objective, 11, rows(11, LENGTH + objective.lookahead))
    source, target, scored = objective.lengths(LENGTH)
    sizes = {
        "encoder": {"tokens": source, "segments": source, "select": scored},
        "decoder": {"tokens": target, "segments": target, "prefix": target},
        "encoder-decoder": {"source": source, "source_segments": source, "tokens": target, "segments": target},
    }[objective.structures[0]]
    optional = {"prefix"} if isinstance(objective, Causal) else set()
    expected = {name: size for name, size in sizes.items() if name not in optional}
    assert {name: a.shape[1] for name, a in example.inputs.items()} == expected
    assert all(a.dtype == (bool if name == "prefix" else np.int32) for name, a in example.inputs.items())
    assert example.targets.shape == example.weights.shape == (16, scored)
    assert example.targets.dtype == np.int32 and example.weights.dtype == np.float32
    assert example.weights[0].sum() == 0 and set(np.unique(example.weights)) <= {0.0, 1.0}
    assert all((a >= 0).all() and (a < VOCABULARY.size).all() for a in [example.targets, *example.inputs.values()])
    assert (objective.lengths(LENGTH).target == 0) == (objective.structures[0] == "encoder")


@pytest.mark.parametrize("length", [10, 2048])
def test_short_and_long_rows_trace(length):
    many = VOCABULARY._replace(sentinels=np.arange(500, dtype=np.int32) % 200)
    for objective in ALL:
        record = {name: np.zeros(length + objective.lookahead, np.int32) for name in ("tokens", "segments")}
        shapes = jax.eval_shape(lambda key, row, o=objective: o(key, row, many), keys(0, 1)[0], record)
        assert shapes.targets.shape == (objective.lengths(length).scored,)
