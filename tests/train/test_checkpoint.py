"""A checkpoint comes back bit for bit or not at all: damage, kills, other meshes, retention."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.train.checkpoint import MANIFEST, Checkpoints
from research.types import State, UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def state(seed: int, averages: bool = True) -> State:
    """A small state of all the shapes that occur: bf16, scalars, empty arrays and empty optax states, NaNs."""
    a, b = jax.random.split(jax.random.key(seed))
    params = {
        "tokens": {"embedding": jax.random.normal(a, (8, 16))},
        "block_0": {
            "kernel": jax.random.normal(b, (16, 4), jnp.bfloat16),
            "bias": jnp.array([jnp.nan, -0.0, 1e-40, 1]),
        },
        "none": jnp.zeros((0, 4)),
    }
    decayed = {"tokens": True, "block_0": False, "none": True}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mask=decayed))
    return State(jnp.int32(seed), params, {}, optimizer.init(params), params if averages else ())


def template(of: State) -> State:
    return jax.eval_shape(lambda: of)


def assert_bitwise(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def python(code: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Run `code` in a fresh interpreter with so many emulated CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_bitwise_round_trip(tmp_path):
    for averages in (True, False):
        saved = state(7, averages)
        with Checkpoints(tmp_path / str(averages)) as checkpoints:
            checkpoints.save(7, saved)
            restored, notes = checkpoints.restore(template(saved))
        assert notes == []
        assert_bitwise(saved, restored)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))


def test_donating_the_saved_buffers_changes_nothing(tmp_path):
    """The next step may reuse the memory of what is still being written."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 2 + 1, s), donate_argnums=0)
    start = State(jnp.int32(0), {"w": jax.random.normal(jax.random.key(0), (4 << 20,))}, {}, (), ())
    expected = jax.tree.map(np.array, start)  # copies, not views
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, start)
        for _ in range(5):
            start = step(start)
        jax.block_until_ready(start)
        restored, _ = checkpoints.restore(template(start))
        assert_bitwise(expected, restored)
        again = step(step(restored))  # and what was restored may be donated too
        assert_bitwise(checkpoints.restore(template(start))[0], expected)
        assert np.array_equal(np.asarray(again.trainable["w"]), np.asarray(expected.trainable["w"] * 2 + 1) * 2 + 1)


def test_every_damaged_file_is_found_and_the_step_before_restored(tmp_path):
    with Checkpoints(tmp_path / "good", keep=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    names = [path.relative_to(tmp_path / "good/2") for path in files(tmp_path / "good/2")]
    assert len(names) > 10 and pathlib.Path(MANIFEST) in names
    harms = {"flip": flip, "truncate": truncate, "remove": pathlib.Path.unlink}
    with Checkpoints(tmp_path / "bad") as checkpoints:
        for name in names:
            for kind, harm in harms.items():
                shutil.rmtree(tmp_path / "bad", ignore_errors=True)
                shutil.copytree(tmp_path / "good", tmp_path / "bad")
                harm(tmp_path / "bad/2" / name)
                bad = checkpoints.damage(2)
                assert len(bad) == 1 and (str(name) in bad[0] or name.name == MANIFEST), (kind, name, bad)
                assert checkpoints.steps() == ([1, 2] if kind == "flip" and name.name != MANIFEST else [1])
        restored, notes = checkpoints.restore(template(state(0)))
    assert_bitwise(restored, state(1))
    assert len(notes) == 1 and "step 2" in notes[0] and "restored step 1" in notes[0]


def test_no_whole_checkpoint_is_one_line_naming_each_bad_file(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(UserError, match="no checkpoint in"):
            checkpoints.restore(template(state(0)))
        assert not checkpoints.exist() and not (tmp_path / "c").exists(), "looking makes nothing"
        for step in (1, 2):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        flip(tmp_path / "c/1/default/_METADATA")
        flip(tmp_path / "c/1/_CHECKPOINT_METADATA")
        (tmp_path / "c/2" / MANIFEST).unlink()
        assert checkpoints.exist() and checkpoints.steps() == [1], "hashes are read by restoring alone"
        with pytest.raises(UserError) as caught:
            checkpoints.restore(template(state(0)))
    message = str(caught.value)
    assert "\n" not in message
    for words in ("1/default/_METADATA", "1/_CHECKPOINT_METADATA", "2 was not finished", "to start anew"):
        assert words in message


def test_a_step_asked_for_is_never_replaced_by_another(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
        assert_bitwise(checkpoints.restore(template(state(0)), 1)[0], state(1))
        flip(tmp_path / "2/default/_METADATA")
        with pytest.raises(UserError, match="use step 1"):
            checkpoints.restore(template(state(0)), 2)
        with pytest.raises(UserError, match="5 does not exist"):
            checkpoints.restore(template(state(0)), 5)


def test_another_configuration_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        wider = state(1)._replace(trainable={**state(1).trainable, "tokens": {"embedding": jnp.zeros((8, 32))}})
        with pytest.raises(UserError, match=r"trainable.tokens.embedding is float32\[8,16\] there and float32\[8,32\]"):
            checkpoints.restore(template(wider))
        with pytest.raises(UserError, match=r"averages.block_0.bias is float32\[4\] there and absent in this run"):
            checkpoints.restore(template(state(1, averages=False)))


def test_newest_and_best_are_kept(tmp_path):
    losses = {10: 3.0, 20: 1.0, 30: float("nan"), 40: 2.0, 50: None, 60: 4.0}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
        for step, loss in losses.items():
            checkpoints.save(step, state(step), loss)
        assert checkpoints.steps() == [20, 50, 60]
        assert (checkpoints.latest(), checkpoints.best()) == (60, 20)
        checkpoints.save(60, state(60), 0.5)  # the same step, evaluated later: nothing is written anew
        assert (checkpoints.best(), checkpoints.steps()) == (60, [50, 60])
    reopened = Checkpoints(tmp_path)
    assert (reopened.steps(), reopened.best()) == ([50, 60], 60)
    assert_bitwise(reopened.restore(template(state(0)))[0], state(60))


def test_going_back_rewrites_the_future(tmp_path):
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        (tmp_path / "9").mkdir()  # what a kill leaves before the first manifest
        assert not checkpoints.exist()
        for step in (1, 2, 3):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        flip(tmp_path / "3/default/_METADATA")
        restored, _ = checkpoints.restore(template(state(0)))
        assert int(restored.step) == 2
        checkpoints.save(3, state(33))  # over the damaged one
        assert_bitwise(checkpoints.restore(template(state(0)))[0], state(33))
        checkpoints.cut(1)
        assert checkpoints.steps() == [1]
        checkpoints.save(2, state(22))
        assert_bitwise(checkpoints.restore(template(state(0)))[0], state(22))


def test_a_kill_while_removing_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                checkpoints.cut(1)
        assert (tmp_path / "2").exists() and checkpoints.steps() == [1]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with Checkpoints(tmp_path / "file" / "c") as checkpoints, pytest.raises(UserError, match="cannot write checkpoint"):
        checkpoints.save(1, state(1))


def test_a_failure_in_the_background_is_raised_once_and_the_next_save_works(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            full = OSError(28, "No space left on device")
            patch.setattr("research.train.checkpoint.write_atomically", lambda *_: (_ for _ in ()).throw(full))
            checkpoints.save(1, state(1))
            with pytest.raises(UserError, match="No space left on device; .* GiB are free there"):
                checkpoints.wait()
        assert checkpoints.steps() == []
        checkpoints.save(1, state(1))
        assert checkpoints.steps() == [1]


KILL = """
    import os, signal, sys, jax.numpy as jnp
    from research.train import checkpoint
    from research.types import State
    state = lambda n: State(jnp.int32(n), {"w": jnp.full((8 << 20,), float(n))}, {}, (), ())
    checkpoints = checkpoint.Checkpoints(sys.argv[1])
    checkpoints.save(1, state(1))
    checkpoints.wait()
    kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "manifest":
        checkpoint.write_atomically = kill
    checkpoints.save(2, state(2))
    if sys.argv[2] == "save":
        kill()
    checkpoints.wait()
"""


@pytest.mark.parametrize("when", ["save", "manifest"])
def test_a_kill_while_saving(tmp_path, when):
    assert python(KILL, tmp_path, when).returncode == -signal.SIGKILL
    with Checkpoints(tmp_path) as checkpoints:
        wanted = State(*jax.eval_shape(lambda: (jnp.int32(0), {"w": jnp.zeros((8 << 20,))})), {}, (), ())
        restored, notes = checkpoints.restore(wanted)
        assert int(restored.step) == 1 and checkpoints.steps() == [1]
        assert np.all(np.asarray(restored.trainable["w"]) == 1)
        if when == "manifest":
            assert "2 was not finished" in notes[0]
        checkpoints.save(2, restored)
        assert checkpoints.steps() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"], "no leftovers of the killed save"


MESHES = """
    import hashlib, sys, jax, jax.numpy as jnp, numpy as np, optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from research.train.checkpoint import Checkpoints
    from research.types import State
    folder, shape = sys.argv[1], tuple(map(int, sys.argv[2].split("x")))
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    def fresh():
        kernel = jax.random.normal(jax.random.key(0), (16, 8))
        params = {"kernel": kernel, "bias": jnp.arange(8, dtype=jnp.bfloat16) / 3}
        return State(jnp.int32(5), params, {}, optax.adamw(1e-3).init(params), ())
    spec = lambda leaf: P("fsdp", "tensor") if leaf.ndim == 2 else P()
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec(leaf)))
    wanted = jax.tree.map(place, jax.eval_shape(fresh))
    with Checkpoints(folder) as checkpoints:
        if sys.argv[3] == "fresh":
            state = jax.device_put(fresh(), jax.tree.map(lambda leaf: leaf.sharding, wanted))
        else:
            state, notes = checkpoints.restore(wanted)
            assert not notes
        leaves = jax.tree.leaves(state)
        assert all(a.sharding == b.sharding for a, b in zip(leaves, jax.tree.leaves(wanted), strict=True))
        print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
        checkpoints.cut(0)
        checkpoints.save(5, state)
"""


def test_any_mesh_restores_what_another_saved_and_quietly(tmp_path):
    """1 device -> 4 emulated ones, fully sharded -> 2 x 2 -> 1 device, bitwise all the way."""
    runs = [("1x1x1", 1, "fresh"), ("1x4x1", 4, "restore"), ("1x2x2", 4, "restore"), ("1x1x1", 1, "restore")]
    outputs = [python(MESHES, tmp_path, shape, what, devices=n) for shape, n, what in runs]
    assert [result.stderr for result in outputs] == [""] * 4
    assert len({result.stdout for result in outputs}) == 1 and len(outputs[0].stdout.split()) == 1
