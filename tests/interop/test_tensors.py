"""Tensors are mapped, not read; and a file that is broken, pickled or elsewhere is refused in one line."""

import json
import re
import shlex
import struct
import time

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from research.interop.tensors import open_folder
from research.types import UserError


def write(path, header, data=b"", length=None):
    """Write a safetensors file by hand, so that it can be a wrong one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def about(shape=(2,), start=0, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + 4 * int(np.prod(shape))]}


def refused(folder, said):
    start = time.perf_counter()
    with pytest.raises(UserError, match=said) as error:
        dict(open_folder(folder))
    assert time.perf_counter() - start < 1
    assert "\n" not in str(error.value)
    return str(error.value)


def test_tensors_are_views_of_the_file(tmp_path):
    draw = np.random.default_rng(0)
    tensors = {
        "a": draw.normal(size=(3, 5)).astype(np.float32),
        "b": draw.normal(size=(7,)).astype(np.float16),
        "c": draw.normal(size=(2, 3)),
        "d": draw.normal(size=(3, 1)).astype(jnp.bfloat16),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "large": np.full(4, 3e38, np.float32),  # whose sum is infinite
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = open_folder(tmp_path)
    assert found.keys() == tensors.keys()
    assert found.shapes == {name: value.shape for name, value in tensors.items()}
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and not (value.size and found[name].flags.writeable)
        np.testing.assert_array_equal(found[name], value)
    root = found["a"]
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert isinstance(root, np.memmap)


def test_several_files(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "model-2.safetensors")
    index = {"a": "model-1.safetensors", "b": "model-2.safetensors"}

    def say(weight_map):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    say(index)
    assert open_folder(tmp_path).shapes == {"a": (2,), "b": (3,)}
    outside = tmp_path / "inside"
    outside.mkdir()
    for name in ("../model-1.safetensors", str(tmp_path / "model-1.safetensors"), "..\\model-1.safetensors", "C:x", ""):
        say(index | {"a": name})
        refused(tmp_path, "is not the name of a safetensors file in this folder")
    say(index | {"a": "model-3.safetensors"})
    refused(tmp_path, r"index\.json: the file model-3\.safetensors is missing")
    say(index | {"b": "model-1.safetensors"})
    refused(tmp_path, r"tensor b is not in model-1\.safetensors")
    say(index | {"c": "model-1.safetensors"})
    refused(tmp_path, r"tensor c is not in model-1\.safetensors")
    for wrong in ([], {}, {"a": 1}, None):
        say(wrong)
        refused(tmp_path, "weight_map does not give the file of each tensor")
    say(index)
    save_file({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}, tmp_path / "model-2.safetensors")
    refused(tmp_path, r"tensor a is in .*model-1\.safetensors and in .*model-2\.safetensors")


def test_broken_files(tmp_path):
    path = tmp_path / "model.safetensors"
    good = {"a": about(), "b": about(start=8)}
    write(path, good, bytes(16))
    assert open_folder(tmp_path).shapes == {"a": (2,), "b": (2,)}
    whole = path.read_bytes()
    for size in (0, 5, 8, 20, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(tmp_path, "cut short or not safetensors")
    path.write_bytes(whole + b"more")
    refused(tmp_path, "cut short or not safetensors")
    for length in (10**6, 2**40, 2**64 - 1):
        write(path, good, bytes(16), length=length)
        refused(tmp_path, "cut short or not safetensors")
    for text in (b"{", b"\xff\xfe", b"[" * 100_000):
        write(path, text)
        refused(tmp_path, "is not JSON")
    write(path, b"[1]")
    refused(tmp_path, "not a JSON object")
    twice = f'{{"a": {json.dumps(about())}, "a": {json.dumps(about())}}}'.encode()
    write(path, twice, bytes(8))
    refused(tmp_path, "a is there twice")
    for wrong in (
        {"a": about(), "b": about(start=4)},  # overlap
        {"a": about(), "b": about(start=12)},  # gap
        {"a": about((10**12,))},
        {"a": about() | {"shape": [-2]}},
        {"a": about() | {"shape": "2"}},
        {"a": about() | {"dtype": "P32"}},
        {"a": about() | {"data_offsets": [8, 0]}},
        {"a": {}},
        {"a": 1},
    ):
        write(path, wrong, bytes(16))
        refused(tmp_path, "cut short or not safetensors")


def test_what_is_no_finite_number_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    for dtype in (np.float32, np.float16, jnp.bfloat16, np.float64):
        for wrong in (np.nan, np.inf, -np.inf):
            save_file({"good": np.ones(3, np.float32), "bad": np.array([1, wrong, 2], dtype)}, path)
            assert open_folder(tmp_path)["good"].sum() == 3
            refused(tmp_path, r"model\.safetensors: tensor bad holds NaN or infinity")
    save_file({"bad": np.array([1e300])}, path)  # infinite as float32
    refused(tmp_path, "tensor bad holds NaN or infinity")
    save_file({"mask": np.ones(3, bool)}, path)
    refused(tmp_path, "tensor mask is of type BOOL: save it as one of F64, F32, F16, BF16")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-1-of-2.bin", "x.pt", "x.ckpt", "tf_model.h5"])
def test_pickled_files_are_refused_with_the_command_that_converts_them(tmp_path, name):
    refused(tmp_path, "holds no model.safetensors")
    (tmp_path / name).write_bytes(b"never read")
    said = refused(tmp_path, "convert it once")
    assert ("AutoModel.from_pretrained" in said) == (name[0] != "x")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    said = refused(tmp_path, "convert it once")
    assert ("from transformers import BertForMaskedLM" in said) == (name[0] != "x")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["os; import os"]}))
    assert "import os" not in refused(tmp_path, "convert it once")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_the_command_converts(tmp_path, monkeypatch, name):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel

    source = tmp_path / "it's here"
    source.mkdir()
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=6, vocab_size=10, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(source)
    weight = GPT2LMHeadModel(config).state_dict()
    weight = {name: value for name, value in weight.items() if name != "lm_head.weight"}
    torch.save(weight, source / name)
    command = re.search(r"python -c .*", refused(source, "convert it once"))[0]
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = open_folder(tmp_path / "it's here-safetensors" if name.startswith("pytorch") else source)
    np.testing.assert_array_equal(found["transformer.wte.weight"], weight["transformer.wte.weight"])
