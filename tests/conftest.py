"""Fixtures that every room's tests share."""

import atexit
import os
import pathlib
import shutil
import sys
import tempfile

# Before jax is imported anywhere: eight devices on the CPU, so that meshes are tested on any machine; and a compiler that
# does not try hard, since tests compile much and compute little.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # many tests compile the same small programs, in several processes
    compiled = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _folder(path: pathlib.Path, what: str) -> pathlib.Path:
    if not path.is_dir():
        pytest.skip(f"{what} not found at {path}: set TERCET_DATA to the folder of public test data")
    return path.resolve()


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """Real public data sets; a test that needs them is skipped where they are absent."""
    return _folder(pathlib.Path(os.environ.get("TERCET_DATA", ROOT / "../shared/data")), "data")


@pytest.fixture(scope="session")
def tokenizer_folder() -> pathlib.Path:
    """Real published tokenizers; a test that needs them is skipped where they are absent."""
    data = pathlib.Path(os.environ.get("TERCET_DATA", ROOT / "../shared/data"))
    return _folder(data / "../tokenizers", "tokenizers")


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    """Compiled programs of one file are of no use to the next: kept, they take 5 GB in the end, and 3 otherwise."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
