"""Checkpoints: Orbax writes sharded arrays in the background, a manifest of hashes says that they are whole.

Orbax makes a step appear at once or not at all, but restores flipped bits silently, and its own retention can delete
the newest step. So each step gets a manifest, written last: the size and hash of every file. A step without a manifest
is not a checkpoint, one whose files differ from it is damaged and passed over.

Cost: `save` returns after the copy to the host (on the CPU no copy at all: JAX refuses to donate a buffer that the
writer still reads). One checkpoint takes 4 bytes a float32 element, uncompressed: zstd saves 8 % of the disk and takes
a core half a second for 160 MB. Hashing reads every byte once more, after a save and before a restore, at several
GB/s. At most keep + 2 checkpoints are on the disk at once.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import threading
from typing import Any

import numpy as np

from research.data.cache import hash_file
from research.train import processes
from research.train.metrics import write_atomically
from research.types import State, UserError

MANIFEST = "manifest.json"
ITEM = "default"  # Orbax's name for the only item of a step


class Checkpoints:
    """The checkpoints in `folder`, one subfolder a step; opening it changes nothing on the disk.

    Args:
        folder: Where the steps lie; made by the first save.
        keep: Newest steps kept, besides the one of lowest evaluation cost: a loss, or a score times -1.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        self.folder = pathlib.Path(folder).resolve()
        self.keep = keep
        self._manager = None
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, BaseException] | None = None

    # --- what is there ------------------------------------------------------------------------------------------------

    def exist(self) -> bool:
        """Return whether any step was ever finished, whole or damaged now: whether there is anything to restore."""
        self.wait()
        return any((self.folder / str(step) / MANIFEST).exists() for step in self._folders())

    def steps(self) -> list[int]:
        """Return the steps that have a manifest and all files in their full size, ascending; hashes are not read."""
        self.wait()
        return list(self._whole())

    def latest(self) -> int | None:
        """Return the newest of `steps`."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the step of lowest evaluation cost, the earlier of equals; None where none was evaluated."""
        self.wait()
        return _best(self._whole())

    def damage(self, step: int, hashes: bool = True) -> list[str]:
        """Return what is wrong with the files of `step`, one phrase each; empty where it is whole.

        Without `hashes` only presence and sizes are looked at, which takes no reading.
        """
        return self._inspect(step, hashes)[1]

    # --- writing ------------------------------------------------------------------------------------------------------

    def save(self, step: int, state: State, cost: float | None = None) -> None:
        """Write `state` as the checkpoint of `step` in the background; `state` may be donated once this returns.

        Waits for the save before, and removes what lies past `step`: a future that this run has gone back from. A whole
        checkpoint of the same step is the same state, and only takes the new cost.

        Raises:
            UserError: This or the previous save could not be written, with the cause.
        """
        self.cut(step)
        cost = float(cost) if cost is not None and math.isfinite(cost) else None
        if processes.agreed("saved", lambda: (self.folder / str(step)).exists() and not self.damage(step)):
            if cost is not None and processes.first():
                folder = self.folder / str(step)
                _write_manifest(folder, {**_read_manifest(folder), "cost": cost})
                self._retain()
            return
        leaves = _flatten(state)
        kinds = {name: _kind(leaf) for name, leaf in leaves.items()}
        arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # Orbax refuses empty arrays
        try:
            import orbax.checkpoint as ocp

            with processes.in_turn("removed"):
                if processes.first():
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._remove(step)
                    for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a killed save
                        shutil.rmtree(leftover, ignore_errors=True)
                elif self._manager:
                    self._manager.reload()  # it remembers steps, and refuses to write one twice
            self._open().save(step, args=ocp.args.PyTreeSave(arrays), force=True)
        except (OSError, ValueError) as error:
            raise self._unwritable(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, kinds, cost), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return once the last save is on the disk with its manifest, and what need not be kept is gone.

        Raises:
            UserError: It could not be written, with the cause.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._failure:
            (step, error), self._failure = self._failure, None
            self._manager = None  # Orbax would raise the same error again at the next save
            if not isinstance(error, OSError | ValueError):  # of a disk or of TensorStore; all else is our mistake
                raise error
            raise self._unwritable(step, error) from error

    def cut(self, step: int) -> None:
        """Remove every checkpoint past `step`, whole or not; a run that resumes at `step` calls this first."""
        self.wait()
        if processes.first():
            for later in self._folders():
                if later > step:
                    self._remove(later)

    def close(self) -> None:
        """Wait for the last save and let go of Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._manager:
                self._manager.close()
                self._manager = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def restore(self, template: State, step: int | None = None) -> tuple[State, list[str]]:
        """Return the state of `step`, or of the newest whole checkpoint, bit for bit, laid out as `template` says.

        Every file is checked against its hash first. Any number of devices and any mesh may restore what another saved.

        Args:
            template: `jax.ShapeDtypeStruct` leaves with the wanted shardings; without one the first device is taken.
            step: The step wanted; None: the newest whole one.

        Returns:
            The state, and one note for each newer step that was passed over, for the user to read.

        Raises:
            UserError: There is no whole checkpoint (names each bad file), or its arrays are not those of `template`.
        """
        self.wait()
        found, notes = processes.agreed("restored", lambda: self._choose(step))
        return self._read(found, template), notes

    def _choose(self, step: int | None) -> tuple[int, list[str]]:
        """Return the step to restore and the notes on those passed over; see `restore`."""
        notes: list[str] = []
        for candidate in [step] if step is not None else sorted(self._folders(), reverse=True):
            bad = self.damage(candidate)
            if not bad:
                notes = [f"{note}: restored step {candidate} instead" for note in notes]
                return candidate, notes
            notes.append(f"checkpoint of step {candidate} cannot be used: {'; '.join(bad)}")
        if not notes:
            raise UserError(f"no checkpoint in {self.folder}: give the folder of a run that has saved one")
        other = [good for good in self._whole() if good != step]
        remedy = f"remove {self.folder} to start anew, or restore it from a copy"
        if step is not None and other:
            remedy = f"use step {other[-1]}"
        raise UserError(f"{'; '.join(notes)}; {remedy}")

    def _read(self, step: int, template: State) -> State:
        import jax
        import orbax.checkpoint as ocp

        wanted = _flatten(template)
        stored = _read_manifest(self.folder / str(step))["arrays"]
        for name in sorted(wanted.keys() | stored.keys()):
            here, there = _kind(wanted[name]) if name in wanted else "absent", stored.get(name, "absent")
            if here != there:
                raise UserError(
                    f"checkpoint {self.folder / str(step)} is of another configuration: {name} is {there} there and "
                    f"{here} in this run; use the run's own configuration or another --out"
                )

        def place(leaf: Any) -> Any:
            sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
            return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)

        places = {name: place(leaf) for name, leaf in wanted.items()}
        full = {name: leaf for name, leaf in wanted.items() if leaf.size}
        arguments = ocp.args.PyTreeRestore(full, restore_args={name: places[name] for name in full})
        values = self._open().restore(step, args=arguments)
        for name, leaf in wanted.items():
            if not leaf.size:
                values[name] = jax.device_put(np.zeros(leaf.shape, leaf.dtype), places[name].sharding)
        return jax.tree.unflatten(jax.tree.structure(template), [values[name] for name in wanted])

    # --- behind -------------------------------------------------------------------------------------------------------

    def _folders(self) -> list[int]:
        """Return the steps that have a folder, whole or not, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def _inspect(self, step: int, hashes: bool) -> tuple[dict[str, Any], list[str]]:
        """Return the manifest of `step` (empty if unreadable) and what is wrong with its files."""
        folder = self.folder / str(step)
        try:
            manifest = _read_manifest(folder)
        except FileNotFoundError:
            return {}, [f"{folder} was not finished" if folder.exists() else f"{folder} does not exist"]
        except ValueError:
            return {}, [f"{folder / MANIFEST} is damaged"]
        found = []
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                found.append(f"{path} is missing")
            elif path.stat().st_size != size:
                found.append(f"{path} has {path.stat().st_size} bytes instead of {size}")
            elif hashes and hash_file(path) != digest:
                found.append(f"{path} is damaged (its hash differs)")
        return manifest, found

    def _whole(self) -> dict[int, dict[str, Any]]:
        """Return {step: manifest} of the steps whose files are all there, ascending."""
        found = {}
        for step in self._folders():
            manifest, bad = self._inspect(step, hashes=False)
            if not bad:
                found[step] = manifest
        return found

    def _open(self):
        """Return Orbax's manager, opened at the first use: importing Orbax takes a second."""
        if self._manager is None:
            import jax
            import orbax.checkpoint as ocp
            from absl import logging

            # Orbax tells absl of every thread it starts. What goes wrong is raised, so that nothing is lost here.
            logging.set_verbosity(logging.FATAL)
            # Processes that are named wait for one another without a collective, which must not cross those of a step.
            named = set(range(jax.process_count())) if jax.process_count() > 1 else None
            together = ocp.options.MultiprocessingOptions(active_processes=named)
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(create=False, save_root_metadata=False, multiprocessing_options=together),
                item_handlers=ocp.PyTreeCheckpointHandler(use_compression=False),
            )
        return self._manager

    def _finish(self, step: int, kinds: dict[str, str], cost: float | None) -> None:
        """Once Orbax is done with `step`: write its manifest, then remove what need not be kept."""
        try:
            self._manager.wait_until_finished()
            if processes.first():
                folder = self.folder / str(step)
                files = {
                    str(path.relative_to(folder)): (path.stat().st_size, hash_file(path))
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                }
                manifest = {"step": step, "cost": cost, "arrays": kinds, "files": files}
                _write_manifest(folder, manifest)
                self._retain()
        except BaseException as error:  # raised to the user by the next `wait`
            self._failure = (step, error)

    def _retain(self) -> None:
        """Remove all but the `keep` newest whole steps and the best one."""
        whole = self._whole()
        wanted = {*list(whole)[-self.keep :], _best(whole)}
        for step in self._folders():
            if step not in wanted:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Remove the folder of `step`, its manifest first: a kill in between leaves nothing that looks whole."""
        folder = self.folder / str(step)
        if not folder.exists():
            return
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)
        if self._manager:
            self._manager.reload()  # it remembers steps, and refuses to write one twice

    def _unwritable(self, step: int, error: BaseException) -> UserError:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return UserError(f"cannot write checkpoint {self.folder / str(step)}: {cause}; {_space(self.folder)}")


def _best(manifests: dict[int, dict[str, Any]]) -> int | None:
    costs = {step: m["cost"] for step, m in manifests.items() if m["cost"] is not None}
    return min(costs, key=costs.__getitem__, default=None)


def _flatten(state: State) -> dict[str, Any]:
    """Return {dotted path: leaf}, in the order of the leaves: Orbax need not know of optax's types or empty states."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"


def _body(manifest: dict[str, Any]) -> bytes:
    return json.dumps({k: v for k, v in manifest.items() if k != "hash"}, sort_keys=True).encode()


def _write_manifest(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, with a hash of itself: its own bits can flip too."""
    import xxhash

    manifest = {**manifest, "hash": xxhash.xxh3_128_hexdigest(_body(manifest))}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Return the manifest of a step's folder; FileNotFoundError where there is none, ValueError where it is damaged."""
    import xxhash

    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        whole = manifest["hash"] == xxhash.xxh3_128_hexdigest(_body(manifest))
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{folder / MANIFEST} is damaged")
    return manifest


def _space(folder: pathlib.Path) -> str:
    """Return how much room the disk under `folder` has left, and what to do."""
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB are free there: make room or choose another --out"
