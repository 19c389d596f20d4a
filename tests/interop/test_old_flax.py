"""Checkpoints that the last `transformers` with Flax wrote compute here what they did there (slow: it is installed).

Takes some four minutes on two cores, most of it pip's, and needs a package index and Python 3.11.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from research.interop import config_json, flax_msgpack
from research.models.heads import logits
from research.models.rules import from_huggingface
from research.models.transformer import Transformer
from tests.models.oracles import ARCHS

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("write_old_flax.py")
OLD = "transformers==4.57.6 flax==0.7.0 jax==0.4.13 jaxlib==0.4.13 optax==0.2.1 numpy==1.26.4 scipy==1.12.0".split()


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    """The Python of a new virtual environment with the last `transformers` that has Flax models."""
    # No later Python has wheels of a jax that those models work with.
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if not python:
        pytest.skip("the old Flax models need Python 3.11, and there is none")
    folder = tmp_path_factory.mktemp("old") / "venv"
    subprocess.run([python, "-m", "venv", folder], check=True)
    installed = subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OLD],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"{' '.join(OLD)} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    yield folder / "bin/python"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def old_folders(old_python, tmp_path_factory):
    """A folder for each of ARCHS, as the old `save_pretrained` wrote it, with the logits of its model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, arch in ARCHS.items():
        (folder / name).mkdir()
        config = config_json.to_config(arch, pad=1, bos=0, eos=2, decoder_start=2)
        (folder / name / config_json.NAME).write_text(json.dumps(config))
    flags = os.environ["XLA_FLAGS"].replace("--xla_backend_optimization_level=0", "")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # this jax's programs are not for that one
    subprocess.run([old_python, SCRIPT, folder], check=True, env=environment)
    return folder


@pytest.mark.parametrize("name", ARCHS)
def test_an_old_checkpoint_computes_what_it_did(name, old_folders):
    folder = old_folders / name
    arch = config_json.to_arch(config_json.read(folder))
    tensors = flax_msgpack.read(folder)
    in_parts = flax_msgpack.read(folder / "parts")
    assert tensors.keys() == in_parts.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(in_parts[key], tensor, err_msg=key)

    with np.load(folder / "logits.npz") as arrays:
        arrays = dict(arrays)
    there = arrays.pop("logits")
    here = np.asarray(logits(Transformer(arch), from_huggingface(arch, tensors), **arrays))
    scored = arrays["segments"] > 0
    difference = np.abs(here - there)[scored].max()
    print(f"{name}: largest logit {np.abs(there[scored]).max():.3f}, largest difference {difference:.1e}")
    assert 0.1 < np.abs(there[scored]).max() < 20
    assert difference <= 1e-5
