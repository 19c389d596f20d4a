"""Tasks that start from pre-trained models: what they take over, what is fresh, and what stays as it was."""

import dataclasses
import functools
import os

import jax
import numpy as np
import pytest

from research.commands import main as door
from research.commands.export import export
from research.config import Adapter, Init, Mesh
from research.data.records import rows_of_file
from research.models.heads import logits
from research.models.paths import flatten
from research.report import logs
from research.train import loop
from research.train.checkpoint import Checkpoints
from research.train.loop import train
from research.train.predict import open_predictor, predict
from research.train.restore import load_run
from research.train.session import open_session
from tests.train import small, small_tasks
from tests.train.kill import killed_before_saving
from tests.train.test_adapter_runs import arrays
from tests.train.test_loop import rows

LORA = Adapter("lora", rank=2, alpha=64.0)
FREEZE = Adapter("freeze", frozen="^(?!pooler/|classifier/)")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    where = tmp_path_factory.mktemp("pretrained")
    os.environ["TERCET_CACHE"] = str(where / "cache")
    (where / "records").mkdir()
    small_tasks.data(where / "records")
    yield where
    del os.environ["TERCET_CACHE"]


@pytest.fixture(scope="module")
def pretrained(where):
    """Return, by objective, the folders of a pre-trained run and of its export, made when first asked for."""

    @functools.cache
    def make(name):
        run = small.run(name, small.text(where), steps=2, evaluate_every=0, evaluate_rows=0, mesh=Mesh(data=1))
        assert train(run, where / name) == "done"
        export(where / name, load_run(where / name), where / f"{name}-exported")
        return {"run": where / name, "folder": where / f"{name}-exported"}

    return make


def starting(task, where, path, **fields):
    """Return a run of `task` that starts from `path`; its own width is another, which must not count."""
    run = small_tasks.run(task, where / "records", init=Init(str(path)), **fields)
    return dataclasses.replace(run, arch=dataclasses.replace(run.arch, width=48, mlp_width=96))


def first_parameters(run, tmp_path, capsys):
    """Return the parameters before the first update, by path, and what is said of them."""
    session = open_session(run)
    capsys.readouterr()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, step = loop._first_state(session, checkpoints)
    assert step == 0
    return flatten(jax.device_get(session.trainer.merge(state.trainable, state.frozen))), capsys.readouterr().out


@pytest.mark.parametrize("kind", ["run", "folder"])
@pytest.mark.parametrize(
    ("objective", "task", "fresh"),
    [
        ("masked", "classification", ["classifier/bias", "classifier/kernel", "pooler/bias", "pooler/kernel"]),
        ("masked", "tagging", ["classifier/bias", "classifier/kernel"]),
        pytest.param("span_corruption", "seq2seq", [], marks=pytest.mark.slow),
        pytest.param("causal", "completion", [], marks=pytest.mark.slow),
        pytest.param("denoising", "seq2seq", [], marks=pytest.mark.slow),
    ],
)
def test_a_task_starts_from_the_very_bits_of_what_was_pretrained(
    objective, task, fresh, kind, where, pretrained, tmp_path, capsys
):
    made = pretrained(objective)
    run = starting(task, where, made[kind])
    found, said = first_parameters(run, tmp_path, capsys)
    held = flatten(load_run(made["run"]).params)
    assert found.keys() - held.keys() == set(fresh)
    left = {path for path in held if path.startswith("head/")} if fresh else set()
    assert held.keys() - found.keys() == left and (left or not fresh)
    for path in found.keys() & held.keys():
        np.testing.assert_array_equal(found[path], held[path], err_msg=path)
    start, _, told = said.rstrip("\n").partition("; fresh: ")
    assert start == f"starting from {made[kind]}" and sorted(filter(None, told.split(", "))) == fresh
    for path in fresh:  # from the run's seed, whatever it starts from: as random as any kernel, and no two alike
        assert path.endswith("bias") == (np.ptp(found[path]) == 0)
    other, _ = first_parameters(dataclasses.replace(run, seed=1), tmp_path, capsys)
    changed = {path for path in found if np.any(found[path] != other[path])}
    assert changed == {path for path in fresh if path.endswith("kernel")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "task"), [("masked", "classification"), ("masked", "tagging"), ("span_corruption", "seq2seq")]
)
def test_a_task_is_trained_from_an_export_as_from_its_run(objective, task, where, pretrained, tmp_path, capsys):
    made = pretrained(objective)
    for kind in made:
        assert train(starting(task, where, made[kind], steps=2, save_every=0), tmp_path / kind) == "done"
    a, b = (load_run(tmp_path / kind) for kind in made)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert a.run.arch.width == small.run(objective, where).arch.width  # of what it started from
    assert a.run.data.tokenizer.path == str(made["run"] / "tokenizer")
    assert a.tokenizer.get_vocab() == load_run(made["run"]).tokenizer.get_vocab()
    loss = [row["loss"] for row in logs.read(tmp_path / "run") if row["kind"] == "evaluation"]
    assert len(loss) == 2 and np.isfinite(loss).all() and loss[0] != loss[1]


# --- a part of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "task"),
    [
        (LORA, "classification"),
        pytest.param(FREEZE, "classification", marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(LORA, dropout=0.2), "tagging", marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
def test_a_task_trained_in_part_is_resumed_predicts_and_is_exported(chosen, task, where, pretrained, tmp_path, capsys):
    made = pretrained("masked")
    run = starting(task, where, made["folder"], adapter=chosen, steps=4, save_every=2, evaluate_every=0)
    assert train(run, tmp_path / "whole") == "done"
    with killed_before_saving(4):
        train(run, tmp_path / "parts")
    assert train(run, tmp_path / "parts") == "done"
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    (whole, loaded), (parts, _) = (arrays(tmp_path / part) for part in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)

    held, frozen = flatten(load_run(made["run"]).params), flatten(whole.frozen)
    assert frozen.keys() == {path for path in held if not path.startswith("head/")}  # the head for tokens is not there
    for path, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, held[path], err_msg=path)
    trained = {path.rsplit("/", 1)[0] for path in flatten(whole.trainable)}
    updated = {f"encoder/block_0/self_attention/{name}" for name in ("query", "value")}
    heads = {"classifier", "pooler"} if task == "classification" else {"classifier"}
    assert trained == heads | (updated if chosen.method == "lora" else set())

    told = list(predict(open_predictor(str(tmp_path / "whole")), rows_of_file(where / "records" / "test.jsonl")))
    assert len(told) == 40 and not any("error" in answer for answer in told)
    status = door.main(["export", str(tmp_path / "whole"), str(tmp_path / "adapter"), "--adapter"])
    said = capsys.readouterr()
    if chosen.method != "lora":
        assert status == 2 and "has adapter.method freeze, not lora: leave it out" in said.err
        return
    assert status == 0
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = eval(said.out.splitlines()[-1], {"peft": peft, "transformers": transformers}).eval()
    text = np.array([loaded.tokenizer("Ann sits: the red cat runs home")["input_ids"]], np.int32)
    select = {"select": np.zeros((1, 1), np.int32)} if task == "classification" else {}
    ours = np.asarray(logits(loaded.model, loaded.params, tokens=text, **select))
    with torch.no_grad():
        theirs = model(torch.tensor(text).long()).logits.numpy()
    np.testing.assert_allclose(theirs, ours[:, 0] if task == "classification" else ours, rtol=0, atol=1e-5)
