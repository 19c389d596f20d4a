"""One writer at a time: a lock of a file or folder, which goes with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jax

from research.types import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def alone(path: pathlib.Path, what: str) -> Iterator[None]:
    """Hold `path`, a file or folder that is there, against other processes that ask for it.

    Of processes that train as one, the first holds it for all. Where the system or the file system has no such locks,
    nothing is held.

    Raises:
        UserError: Another process holds it, or renamed or removed it before this one could: says `what` that is.
    """
    if fcntl is None or jax.process_index():
        yield
        return
    ended = UserError(f"{what} has just ended with {path}: give the command again")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ended from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is writing {path}: wait for it, or choose another --out") from None
        except OSError:  # NFS without its lock manager, for one
            pass
        if not _is_at(descriptor, path):
            raise ended
        yield
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Return whether what is open is still what has the name `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
