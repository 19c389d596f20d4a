"""Recurrent models: equal to torch's cells, the same in one go as row by row, and with gradients that are the scan's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models import recurrent
from research.models.build import create, empty, initial_parameters, parameter_count, start
from research.models.heads import project
from research.models.ladder import FeedForward, Recurrent, validate
from research.types import UserError

CELLS = ("elman", "lstm", "gru")
SIZES = {"vocab_size": 23, "width": 6}
ARCHS = {cell: Recurrent(cell, **SIZES, hidden_width=5, layers=2) for cell in CELLS}
ARCHS["tied"] = Recurrent("lstm", **SIZES, hidden_width=7, tied=True)
ARCHS["feed-forward"] = FeedForward(**SIZES, context=3, hidden_width=9)
ARCHS["bigram"] = FeedForward(**SIZES, context=1, hidden_width=9, direct=False)


@functools.cache
def made(name):
    arch = ARCHS[name]
    params = initial_parameters(arch, jax.random.key(1))
    leaves, tree = jax.tree.flatten(params)
    redrawn = [jax.random.normal(jax.random.key(i), x.shape) * 0.5 for i, x in enumerate(leaves)]
    return create(arch), jax.tree.unflatten(tree, redrawn)


def tokens(rows, length, seed=0):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, SIZES["vocab_size"])


def read(name, rows, carry, valid=None):
    model, params = made(name)
    return model.apply({"params": params}, rows, carry, valid, method=model.read)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_torchs(cell):
    torch = pytest.importorskip("torch")
    if cell == "elman":
        pytest.skip("torch's plain cell is not logistic")
    model, params = made(cell)
    arch = ARCHS[cell]
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](arch.width, 5, arch.layers, batch_first=True)
    with torch.no_grad():
        for i in range(arch.layers):
            block = params["decoder"][f"block_{i}"]
            values = {
                "weight_ih": block["input"]["kernel"].T,
                "bias_ih": block["input"]["bias"],
                "weight_hh": block["recurrent"]["kernel"].T,
                "bias_hh": block["recurrent"].get("bias", jnp.zeros_like(block["input"]["bias"])),
            }
            for name, value in values.items():
                getattr(theirs, f"{name}_l{i}").copy_(torch.from_numpy(np.array(value)))
        rows = tokens(3, 11)
        inputs = torch.from_numpy(np.array(params["tokens"]["embedding"][rows]))
        outputs, last = theirs(inputs)
    states, carry = read(cell, rows, start(arch, 3))
    np.testing.assert_allclose(states, outputs.numpy(), atol=1e-6)
    hidden = last[0] if cell == "lstm" else last
    np.testing.assert_allclose(np.stack([layer["output"] for layer in carry]), hidden.numpy(), atol=1e-6)


def test_an_elman_layer_is_its_formula():
    model, params = made("elman")
    rows = tokens(2, 7)
    x = np.asarray(params["tokens"]["embedding"])[np.asarray(rows)]
    for i in range(2):
        block = jax.tree.map(np.asarray, params["decoder"][f"block_{i}"])
        state, out = np.zeros((2, 5)), []
        for t in range(7):
            gate = x[:, t] @ block["input"]["kernel"] + block["input"]["bias"] + state @ block["recurrent"]["kernel"]
            state = 1 / (1 + np.exp(-gate))
            out.append(state)
        x = np.stack(out, 1)
    np.testing.assert_allclose(read("elman", rows, start(ARCHS["elman"], 2))[0], x, atol=1e-6)


def test_a_feed_forward_model_is_its_formula():
    model, params = made("feed-forward")
    params = jax.tree.map(np.asarray, params)
    rows = np.asarray(tokens(2, 7))
    states = model.apply({"params": params}, rows)
    scores = np.asarray(project(ARCHS["feed-forward"], params, states))
    padded = np.pad(rows, ((0, 0), (2, 0)))  # before the first word stands id 0
    hidden = params["decoder"]["block_0"]
    for t in range(7):
        x = params["tokens"]["embedding"][padded[:, t : t + 3]].reshape(2, -1)
        h = np.tanh(x @ hidden["kernel"] + hidden["bias"])
        both = np.concatenate([h, x], axis=1)
        np.testing.assert_allclose(scores[:, t], both @ params["head"]["kernel"].T + params["head"]["bias"], atol=1e-5)


@pytest.mark.parametrize("name", ARCHS)
@given(cut=st.integers(1, 10), seed=st.integers(0, 5))
@settings(max_examples=3, deadline=None)
def test_rows_in_parts_are_rows_in_one_go(name, cut, seed):
    rows = tokens(2, 11, seed)
    whole, last = read(name, rows, start(ARCHS[name], 2))
    first, carry = read(name, rows[:, :cut], start(ARCHS[name], 2))
    second, carry = read(name, rows[:, cut:], carry)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, last)


def test_a_context_of_one_word_carries_nothing():
    assert start(ARCHS["bigram"], 2) == ()  # Orbax refuses arrays without elements


@pytest.mark.parametrize("name", ARCHS)
def test_padding_on_the_left_is_not_read(name):
    model, params = made(name)
    rows = tokens(2, 6)
    padded = jnp.concatenate([jnp.full((2, 4), 9), rows], axis=1)
    valid = jnp.arange(10)[None] >= jnp.array([[4], [4]])
    expected = read(name, rows, start(ARCHS[name], 2))[0][:, -1]
    for memory_first in (10, 7):  # in one go, and on from a memory
        memory = empty(ARCHS[name], 2, 12)
        extend = functools.partial(model.apply, {"params": params}, method=model.extend)
        found, memory = extend(padded[:, :memory_first], valid[:, :memory_first], memory)
        if memory_first < 10:
            found, memory = extend(padded[:, memory_first:], valid[:, memory_first:], memory)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        again, _ = extend(padded[:, -1:], valid[:, -1:], memory.back())
        np.testing.assert_allclose(again, expected, atol=1e-6)
        assert int(memory.index) == 10 and bool((memory.valid[:, :10] == valid).all())


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_the_scan(cell):
    size, (length, rows, width) = recurrent.GATES[cell], (9, 3, 4)
    keys = jax.random.split(jax.random.key(0), 6)
    inputs = jax.random.normal(keys[0], (length, rows, size * width))
    kernel, bias = jax.random.normal(keys[1], (width, size * width)), jax.random.normal(keys[2], (size * width,))
    names = ("output", "cell") if cell == "lstm" else ("output",)
    state = {name: jax.random.normal(key, (rows, width)) for name, key in zip(names, keys[3:], strict=False)}
    valid = jax.random.bernoulli(keys[5], 0.8, (length, rows))
    weights = jax.random.normal(keys[4], (length, rows, width))

    def loss(along, inputs, kernel, bias, state):
        outputs, after = along(cell, inputs, kernel, bias, state, valid)
        return jnp.sum(outputs * weights) + sum(jnp.sum(jnp.square(x)) for x in after.values())

    def scanned(cell, inputs, kernel, bias, state, valid):
        return recurrent._steps(cell, inputs, jnp.zeros_like(inputs), kernel, bias, state, valid)

    arguments = (inputs, kernel, bias, state)
    found, expected = (jax.grad(functools.partial(loss, f), (0, 1, 2, 3))(*arguments) for f in (recurrent.along, scanned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


def test_variational_dropout_is_the_same_at_every_step_and_plain_dropout_is_not():
    for variational in (True, False):
        arch = Recurrent("gru", **SIZES, input_dropout=0.5, variational=variational)
        layers = recurrent.Layers(arch)
        x = jnp.ones((2, 8, 6))
        dropped = layers.apply({}, x, 0.5, False, rngs={"dropout": jax.random.key(0)}, method=layers._dropped)
        assert set(np.unique(dropped)) == {0.0, 2.0}
        assert bool((dropped == dropped[:, :1]).all()) == variational


@pytest.mark.parametrize("rate", ["word_dropout", "weight_dropout", "dropout", "output_dropout"])
def test_every_rate_changes_training_and_nothing_else(rate):
    arch = Recurrent("lstm", **SIZES, **{rate: 0.5})
    model, params = create(arch), initial_parameters(arch, jax.random.key(0))
    rows = tokens(2, 5)
    still = model.apply({"params": params}, rows)
    moved = [
        model.apply({"params": params}, rows, deterministic=False, rngs={"dropout": jax.random.key(k)}) for k in (0, 1, 0)
    ]
    assert not np.allclose(moved[0], still) and not np.allclose(moved[0], moved[1])
    np.testing.assert_array_equal(moved[0], moved[2])


def test_a_dropped_word_is_dropped_wherever_it_stands():
    arch = Recurrent("elman", vocab_size=2, width=4, layers=1, word_dropout=0.5)
    model, params = create(arch), initial_parameters(arch, jax.random.key(0))
    rows = jnp.zeros((2, 6), jnp.int32)
    outcomes = set()
    for k in range(8):
        states = model.apply({"params": params}, rows, deterministic=False, rngs={"dropout": jax.random.key(k)})
        np.testing.assert_array_equal(states[0], states[1])
        outcomes.add(round(float(states[0, 0, 0]), 6))
    assert len(outcomes) == 2


def test_parameters_are_those_of_the_published_sizes():
    small = Recurrent("lstm", vocab_size=10_000, width=200)  # Zaremba et al. (2014): 4.65 M with torch's second biases
    assert parameter_count(small) == 10_000 * 200 * 2 + 10_000 + 2 * (400 * 800 + 800)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (Recurrent(layers=0), "arch.layers"),
        (Recurrent(width=-1), "arch.width"),
        (Recurrent(weight_dropout=1.0), "arch.weight_dropout"),
        (FeedForward(context=0), "arch.context"),
        (FeedForward(dropout=-0.1), "arch.dropout"),
        (FeedForward(vocab_size=-5), "arch.vocab_size"),
    ],
)
def test_what_cannot_be_built_is_refused(arch, message):
    with pytest.raises(UserError, match=message):
        validate(arch)
