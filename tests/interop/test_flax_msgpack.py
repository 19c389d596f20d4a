"""Old Flax checkpoints come in bitwise, whole or in parts, and a broken one is refused in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from research.interop.config_json import to_config
from research.interop.flax_msgpack import INDEX, NAME, is_in, read
from research.interop.folder import load
from research.models.paths import flatten, unflatten
from research.models.rules import from_huggingface, to_huggingface
from research.types import UserError
from tests.models.oracles import ARCHS, parameters, same

EMBEDDINGS = ("_embeddings", "wte", "wpe", "shared", "embed_positions", "relative_attention_bias")


def old_tree(arch, params):
    """Return parameters as the Flax models of `transformers` named and laid them out, module by module."""
    leaves = {}
    for name, tensor in to_huggingface(arch, params).items():
        module, _, last = name.rpartition(".")
        if last == "weight" and module.endswith(EMBEDDINGS):
            last = "embedding"
        elif last == "weight" and tensor.ndim == 1:
            last = "weight" if arch.norm == "rms" else "scale"  # FlaxT5LayerNorm kept torch's word
        elif last == "weight":
            last, tensor = "kernel", np.ascontiguousarray(tensor.T)
        leaves[f"{module}.{last}".lstrip(".").replace(".", "/")] = tensor
    return unflatten(leaves)


@pytest.mark.parametrize("name", ARCHS)
def test_an_old_checkpoint_comes_in_bitwise(name, tmp_path):
    params = parameters(ARCHS[name])
    tree = old_tree(ARCHS[name], params)
    assert not is_in(tmp_path)
    (tmp_path / NAME).write_bytes(msgpack_serialize(tree))
    assert is_in(tmp_path)
    tensors = read(tmp_path)
    assert tensors.shapes == {key: tensor.shape for key, tensor in to_huggingface(ARCHS[name], params).items()}
    same(from_huggingface(ARCHS[name], tensors), params)
    (tmp_path / "config.json").write_text(json.dumps(to_config(ARCHS[name], pad=1, bos=0, eos=2)))
    same(load(tmp_path).params, params)


def test_kernels_were_stored_as_the_old_modules_had_them():
    arch = ARCHS["gpt2"]
    leaves = flatten(old_tree(arch, parameters(arch)))
    assert leaves["transformer/h/0/attn/c_attn/kernel"].shape == (3 * 24, 24)  # FlaxConv1D: [out, in]
    assert leaves["transformer/ln_f/scale"].shape == (24,)
    leaves = flatten(old_tree(ARCHS["bert"], parameters(ARCHS["bert"])))
    assert leaves["bert/encoder/layer/0/intermediate/dense/kernel"].shape == (24, 40)  # Dense: [in, out]
    leaves = flatten(old_tree(ARCHS["t5"], parameters(ARCHS["t5"])))
    assert "shared/embedding" in leaves and "encoder/final_layer_norm/weight" in leaves


def test_a_checkpoint_in_parts_comes_in_bitwise(tmp_path):
    arch = ARCHS["bart"]
    params = parameters(arch)
    leaves = flatten(old_tree(arch, params))
    where = {}
    for number in range(3):
        file = f"flax_model-{number + 1:05d}-of-00003.msgpack"
        part = {path: leaf for i, (path, leaf) in enumerate(leaves.items()) if i % 3 == number}
        (tmp_path / file).write_bytes(msgpack_serialize(unflatten(part)))
        where |= dict.fromkeys(part, file)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    assert is_in(tmp_path)
    same(from_huggingface(arch, read(tmp_path)), params)
    (tmp_path / file).unlink()
    refused(tmp_path, "00003-of-00003.msgpack is missing")


def test_half_precision_stays_until_it_becomes_parameters(tmp_path):
    arch = ARCHS["gpt2"]
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), old_tree(arch, parameters(arch)))
    (tmp_path / NAME).write_bytes(msgpack_serialize(tree))
    tensors = read(tmp_path)
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
    assert all(leaf.dtype == np.float32 for leaf in flatten(from_huggingface(arch, tensors)).values())


def refused(folder, said):
    with pytest.raises(UserError, match=said) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    refused(tmp_path, "flax_model.msgpack is missing")
    whole = msgpack_serialize(old_tree(ARCHS["gpt2"], parameters(ARCHS["gpt2"])))
    file = tmp_path / NAME
    for data, said in [
        (b"", "is empty"),
        (whole[:-1], "is not a whole msgpack file"),
        (whole[: len(whole) // 2], "is not a whole msgpack file"),
        (whole + b"more", "is not a whole msgpack file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is not a whole msgpack file"),
        (b"PK\x03\x04" + bytes(60), "is not a whole msgpack file"),
        (msgpack_serialize({}), "holds no parameters"),
        (msgpack_serialize([np.zeros(3)]), "holds no parameters"),
        (msgpack_serialize({"a": {"kernel": "text"}}), "a/kernel is no array"),
        (msgpack_serialize({"a": {"kernel": np.array([1.0, np.nan])}}), "a/kernel holds NaN"),
        (msgpack_serialize({"a": {"kernel": np.array([1e300])}}), "a/kernel holds NaN or infinity"),
        (msgpack_serialize({"step": np.zeros((), np.int32)}), "step is no array"),
    ]:
        file.write_bytes(data)
        refused(tmp_path, said)


@pytest.mark.parametrize(
    "index", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": {}}}', "{}", '{"weight_map": {"a": "../b.msgpack"}}']
)
def test_a_broken_index_is_refused_in_one_line(index, tmp_path):
    (tmp_path / INDEX).write_text(index)
    refused(tmp_path, "index.json (is not the index|names '../b.msgpack', which is no file of its own folder)")
