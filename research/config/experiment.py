"""Experiment files: Python with `config() -> Run`."""

from __future__ import annotations

import importlib.util
import pathlib

from research.config.run import Run
from research.types import UserError, did_you_mean


def load_experiment(path: str) -> Run:
    """Return what `config()` of the Python file at `path` returns.

    Raises:
        UserError: There is no such file, it fails to run, or it has no `config() -> Run`.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else pathlib.Path("experiments")
        hint = did_you_mean(str(file), [str(f) for f in sorted(folder.glob("*.py"))])
        raise UserError(f"no experiment file at {path}{hint}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: an experiment is a .py file with config() -> Run")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        run = module.config()
    except UserError:
        raise
    except Exception as error:
        line = next((f":{t.tb_lineno}" for t in _frames(error) if t.tb_frame.f_code.co_filename == str(file)), "")
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(run, Run):
        raise UserError(f"{path}: config() returned {type(run).__name__}, but must return a research.config.Run")
    return run


def _frames(error: BaseException):
    """Yield the traceback entries of `error`, innermost first."""
    entries, entry = [], error.__traceback__
    while entry:
        entries.append(entry)
        entry = entry.tb_next
    yield from reversed(entries)
