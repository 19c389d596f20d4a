"""Models that carry state from row to row: the carry is right, exact on resume, and the same however rows are computed."""

import dataclasses
import functools
import os

import jax
import numpy as np
import pytest

from research.commands import main as door
from research.config import Adapter, Compute, Init, Mesh, check
from research.generate.decoding import Prompt, generate
from research.generate.settings import Decoding
from research.models.heads import logits
from research.models.ladder import FeedForward, Recurrent
from research.objectives.masked import Masked
from research.objectives.prefix import Prefix
from research.report import logs
from research.train.checkpoint import Checkpoints
from research.train.evaluate import STREAMS, evaluator, streams
from research.train.loop import train
from research.train.memory import estimate
from research.train.restore import evaluate_run, load_run
from research.train.session import open_session, rows_of
from research.train.step import trainer
from research.types import UserError
from tests.train import small
from tests.train.kill import killed_before_saving

ARCHS = {
    "lstm": Recurrent("lstm", width=16, layers=2, dropout=0.2, weight_dropout=0.2, word_dropout=0.1, variational=True),
    "gru": Recurrent("gru", width=16, hidden_width=24, layers=2, tied=True, output_dropout=0.2),
    "feed-forward": FeedForward(context=5, width=16, hidden_width=24, dropout=0.1),
}
MOSTLY_SLOW = [pytest.param(name, marks=() if name == "lstm" else pytest.mark.slow) for name in ARCHS]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    os.environ["TERCET_CACHE"] = str(folder / "cache")
    yield small.text(folder)
    del os.environ["TERCET_CACHE"]


def make(name, source, **fields):
    run = small.run("causal", source, **{"mesh": Mesh(data=1), "evaluate_rows": 0} | fields)
    return dataclasses.replace(run, name=name, arch=ARCHS[name], data=dataclasses.replace(run.data, order="stream"))


@functools.cache
def opened(name, source):
    return open_session(make(name, source))


EXPERIMENT = """
import pathlib
from tests.train import test_carry

def config():
    return test_carry.make({name!r}, pathlib.Path({source!r}))
"""


def still(arch):
    """Return `arch` without dropout."""
    return dataclasses.replace(arch, **{name: 0.0 for name in vars(arch) if name.endswith("dropout")})


@pytest.mark.parametrize("name", ["lstm", pytest.param("feed-forward", marks=pytest.mark.slow)])
def test_a_run_killed_and_resumed_by_the_command_is_bitwise_the_run_left_alone_with_its_carry(name, source, tmp_path, capsys):
    (tmp_path / "run.py").write_text(EXPERIMENT.format(name=name, source=str(source)))
    train_in = lambda folder: door.main(["train", str(tmp_path / "run.py"), "--out", str(tmp_path / folder)])  # noqa: E731
    assert train_in("whole") == 0
    with killed_before_saving(8):
        train_in("parts")
    (tmp_path / "parts" / "scores").mkdir()
    (tmp_path / "parts" / "scores" / "test.json").write_text("{}")
    capsys.readouterr()
    assert train_in("parts") == 0
    assert not list((tmp_path / "parts" / "scores").iterdir()) and "removed" in capsys.readouterr().out
    assert [start["step"] for start in logs.read_run(tmp_path / "parts")["resumed"]] == [4]  # it did not begin anew
    timed = ("tokens_per_s", "seconds", "elapsed")
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in logs.read(tmp_path / f)] for f in ("whole", "parts")]
    assert rows[0] == rows[1] and len(rows[0]) == 12  # 8 steps, 3 evaluations, an end
    states = []
    for folder in ("whole", "parts"):
        with Checkpoints(tmp_path / folder / "checkpoints") as checkpoints:
            states.append(jax.device_get(checkpoints.restore(opened(name, source).trainer.shapes)[0]))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(states[0].carry))
    scores = evaluate_run(tmp_path / "parts", "latest", "validation")
    first = next(row for row in logs.read(tmp_path / "parts") if row["kind"] == "evaluation")
    assert scores["loss"] < first["loss"]


def test_steps_read_one_stream_and_the_carry_is_what_reading_it_in_one_go_leaves(source):
    session = opened("lstm", source)
    run, rows = session.run, session.training
    run = dataclasses.replace(run, arch=still(run.arch), optimizer=dataclasses.replace(run.optimizer, learning_rate=1e-30))
    one = trainer(run, session.prepared.vocabulary, session.trainer.mesh)
    state = one.initialize()
    params = jax.device_get(state.trainable)
    read = []
    for step in range(3):
        batch = rows.batch(step)
        read.append(batch["tokens"][:, : run.data.length])
        state, _ = one.update(state, one.place(batch))
    whole = np.concatenate(read, axis=1)
    start = rows.batch(0)["tokens"][0]
    np.testing.assert_array_equal(whole[0, run.data.length], start[run.data.length])  # contiguous
    _, carry = one.model.apply({"params": params}, whole, jax.device_get(one.initialize().carry), method=one.model.read)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.device_get(state.carry), carry)


@pytest.mark.parametrize(
    "change",
    [
        {"microbatches": 2},
        {"mesh": Mesh(data=2, fsdp=2)},
        pytest.param({"mesh": Mesh(data=4)}, marks=pytest.mark.slow),
    ],
)
def test_carry_and_loss_do_not_depend_on_microbatches_or_devices(change, source):
    session = opened("gru", source)
    found = []
    for fields in ({}, change):
        run = dataclasses.replace(session.run, arch=still(session.run.arch), **fields)
        from research.train import sharding

        one = trainer(run, session.prepared.vocabulary, sharding.create_mesh(run.mesh))
        state, losses = one.initialize(), []
        for step in range(3):
            state, metrics = one.update(state, one.place(session.training.batch(step)))
            losses.append(float(metrics["loss"]))
        found.append((losses, jax.device_get(state.carry)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found[0][1], found[1][1])


def test_evaluation_streams_read_every_row_once_in_order(source):
    session = opened("lstm", source)
    rows = rows_of(session.run, session.prepared, "validation")
    width = STREAMS + 2
    index = np.stack([index for _, index in streams(rows, width)])
    real = index[index < rows.count]
    assert sorted(real.tolist()) == list(range(rows.count))
    assert (index[:, STREAMS:] == rows.count).all()
    both = (index[1:] < rows.count) & (index[:-1] < rows.count)
    assert (np.diff(index, axis=0)[both] == 1).all()
    limited = np.stack([index for _, index in streams(rows, width, 7)])
    assert sorted(limited[limited < rows.count].tolist()) == list(range(7))


def test_evaluation_is_the_plain_loss_of_the_streams_and_depends_on_no_batch_size(source):
    session = opened("lstm", source)
    run, rows = session.run, rows_of(session.run, session.prepared, "validation")
    params = jax.device_get(session.trainer.initialize().trainable)
    scores = session.evaluate(params, rows)
    other = evaluator(dataclasses.replace(run, batch_size=3), session.prepared.vocabulary, session.trainer)(params, rows)
    assert scores == other
    total, weight = 0.0, 0
    tokens = [[] for _ in range(STREAMS)]
    targets = [[] for _ in range(STREAMS)]
    inside = [[] for _ in range(STREAMS)]
    for record, _ in streams(rows, STREAMS):
        for b in range(STREAMS):
            tokens[b].append(record["tokens"][b, :-1])
            targets[b].append(record["tokens"][b, 1:])
            inside[b].append((record["segments"][b, 1:] > 0) & (record["segments"][b, :-1] > 0))
    for b in range(STREAMS):
        row = np.concatenate(tokens[b])[None]
        scored = jax.nn.log_softmax(logits(session.trainer.model, params, tokens=row)[0])
        nll = -np.take_along_axis(np.asarray(scored), np.concatenate(targets[b])[:, None], axis=1)[:, 0]
        total += float(np.sum(nll * np.concatenate(inside[b])))
        weight += int(np.sum(np.concatenate(inside[b])))
    assert scores["scored"] == weight
    assert scores["loss"] == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_text_is_made_as_by_reading_everything_again(name, source):
    session = opened(name, source)
    model, params = session.trainer.model, jax.device_get(session.trainer.initialize().trainable)
    params = jax.tree.map(lambda x: x * 3, params)
    prompts = [Prompt((5, 9, 11)), Prompt((7,))]
    made = generate(model, params, prompts, Decoding(max_new_tokens=6))
    for prompt, (first, *_) in zip(prompts, made, strict=True):
        row = list(prompt.tokens)
        for _ in range(6):
            row.append(int(np.argmax(logits(model, params, tokens=np.asarray([row]))[0, -1])))
        assert list(first.tokens) == row[len(prompt.tokens) :]
    beams = generate(model, params, prompts, Decoding("beam", max_new_tokens=4, beams=1))
    assert [b[0].tokens for b in beams] == [m[0].tokens[:4] for m in made]
    wide = generate(model, params, prompts, Decoding("beam", max_new_tokens=4, beams=4))
    assert all(w[0].score >= b[0].score - 1e-5 for w, b in zip(wide, beams, strict=True))


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_the_memory_estimate_is_near_what_xla_takes(name, source):
    run = dataclasses.replace(opened(name, source).run, batch_size=32)
    arch = dataclasses.replace(run.arch, vocab_size=4000, width=64)
    run = dataclasses.replace(run, arch=arch)
    one = trainer(run, opened(name, source).prepared.vocabulary, opened(name, source).trainer.mesh)
    record = {key: np.zeros((32, run.data.length + 1), np.int32) for key in ("tokens", "segments")}
    stats = one.update.lower(one.shapes, one.place(record)).compile().memory_analysis()
    taken = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    found = estimate(run, {"data": 1, "fsdp": 1, "tensor": 1}, "cpu").total
    assert 0.8 < found / taken < 1.5, (found, taken)


def test_a_carry_of_another_batch_is_refused(source, tmp_path):
    run = make("gru", source, steps=4)
    train(run, tmp_path)
    with pytest.raises(UserError, match=r"carry.*another --out"):
        train(dataclasses.replace(run, batch_size=16, steps=6), tmp_path, allow_changes=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": Prefix()}, "objective must be Causal"),
        ({"objective": Masked()}, "objective must be Causal"),
        ({"compute": Compute(remat=True)}, "compute.remat"),
        ({"adapter": Adapter("lora")}, "adapter.method lora"),
        ({"init": Init("runs/x")}, "init.path"),
    ],
)
def test_what_these_models_cannot_do_is_refused(change, message, source):
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(make("lstm", source), **change))
    data = make("lstm", source).data
    with pytest.raises(UserError, match="data.cross_documents"):
        check(dataclasses.replace(make("lstm", source), data=dataclasses.replace(data, cross_documents=False)))


def test_a_run_says_which_model_it_is_of(source, tmp_path):
    run = make("gru", source, steps=2)
    train(run, tmp_path)
    assert load_run(tmp_path).run.arch == opened("gru", source).run.arch
