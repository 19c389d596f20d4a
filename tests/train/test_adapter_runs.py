"""Whole runs with an adapter: killed and resumed bitwise, read back merged, exported merged or alone."""

import contextlib
import dataclasses
import functools
import io
import os

import jax
import numpy as np
import pytest

from research.commands import main as door
from research.commands.export import export
from research.config import Adapter, Init, Mesh
from research.models.heads import logits
from research.models.paths import flatten
from research.report import logs
from research.train.checkpoint import Checkpoints
from research.train.loop import train
from research.train.restore import evaluate_run, load_run
from tests.train import small
from tests.train.kill import killed_before_saving
from tests.train.test_loop import rows

LORA = Adapter("lora", rank=2, alpha=64.0, targets="self_attention/.*kernel$")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that starts from the exported folder of another, that folder, and the other's own."""
    where = tmp_path_factory.mktemp("base")
    os.environ["TERCET_CACHE"] = str(where / "cache")
    source = small.text(where)
    run = small.run("masked", source, steps=2, evaluate_every=0, evaluate_rows=0, mesh=Mesh(data=1))
    assert train(run, where / "base") == "done"
    export(where / "base", load_run(where / "base"), where / "published")
    yield dataclasses.replace(run, init=Init(str(where / "published"))), where / "published", where / "base"
    del os.environ["TERCET_CACHE"]


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Return the folder of a run of four steps that was left alone, for an adapter, and what it printed."""

    @functools.cache
    def make(chosen):
        folder = tmp_path_factory.mktemp("whole")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert train(configured(base, chosen), folder / "run") == "done"
        return folder / "run", said.getvalue()

    return make


def configured(base, chosen):
    return dataclasses.replace(base[0], adapter=chosen, steps=4, save_every=2, ema=0.5, seed=1)


def arrays(folder):
    """Every array of the newest checkpoint, by name."""
    loaded = load_run(folder)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore(loaded.trainer.shapes)
    return jax.device_get(state), loaded


OTHERS = [
    Adapter("freeze", lowest=1),
    Adapter(unfreeze_every=1),
    dataclasses.replace(LORA, dropout=0.2, unfreeze_every=1, whole="^head/"),
]


@pytest.mark.slow  # of a task, in test_from_pretrained
@pytest.mark.parametrize("chosen", [LORA, *OTHERS])
def test_a_run_killed_and_resumed_is_bitwise_the_run_left_alone(chosen, base, trained, tmp_path):
    run = configured(base, chosen)
    folder, said = trained(chosen)

    with killed_before_saving(4):
        train(run, tmp_path / "parts")
    assert train(run, tmp_path / "parts") == "done"
    assert rows(folder) == rows(tmp_path / "parts")
    (whole, loaded), (parts, _) = arrays(folder), arrays(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)

    record = logs.read_run(folder)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert record["trainable"] == count(whole.trainable) and record["parameters"] == count(loaded.params)
    if chosen.method != "full":
        assert said.count(f"training {record['trainable']:,} parameters beside {count(whole.frozen):,} frozen ones") == 1
    held = load_run(base[2]).params
    assert flatten(held).keys() == flatten(loaded.params).keys()
    for path, leaf in flatten(whole.frozen).items():  # what is frozen is still what it started from, bit for bit
        np.testing.assert_array_equal(leaf, flatten(held)[path])

    # What the loop logged is what the merged parameters score.
    last = [row for row in rows(folder) if row["kind"] == "evaluation"][-1]
    assert evaluate_run(folder, "latest", "validation")["loss"] == pytest.approx(last["loss"], rel=1e-6)


def test_a_run_is_exported_merged_or_as_its_adapter_alone(base, trained, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    run, _ = trained(LORA)
    assert door.main(["export", str(run), str(tmp_path / "merged")]) == 0
    assert door.main(["export", str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    load = f'transformers.AutoModelForMaskedLM.from_pretrained("{base[1]}")'
    assert f'peft.PeftModel.from_pretrained({load}, "{tmp_path / "adapter"}")' in capsys.readouterr().out

    text = np.array([[9, 12, 7, 30, 8, 11]], np.int32)
    loaded = load_run(run)
    expected = logits(loaded.model, loaded.params, tokens=text)
    auto = transformers.AutoModelForMaskedLM

    def found(model):
        with torch.no_grad():
            return model.eval()(torch.tensor(text).long()).logits.numpy()

    np.testing.assert_allclose(found(auto.from_pretrained(tmp_path / "merged")), expected, rtol=0, atol=1e-5)
    plain = auto.from_pretrained(base[1])
    assert np.abs(found(plain) - expected).max() > 1e-4
    beside = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    np.testing.assert_allclose(found(beside), expected, rtol=0, atol=1e-5)


def test_what_has_no_adapter_or_no_base_is_refused_before_it_is_loaded(base, tmp_path, capsys):
    assert door.main(["export", str(base[2]), str(tmp_path / "x"), "--adapter"]) == 2
    err = capsys.readouterr().err
    assert "adapter.method full, not lora: leave it out" in err and err.count("\n") == 1
    assert not (tmp_path / "x").exists()
