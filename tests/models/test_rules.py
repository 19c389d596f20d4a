"""Names go both ways bitwise, and what does not fit is named."""

from dataclasses import replace

import numpy as np
import pytest

from research.models.arch import base
from research.models.paths import flatten, unflatten
from research.models.rules import expected, from_huggingface, to_huggingface
from research.types import UserError
from tests.models.oracles import ARCHS, parameters, same, torch_model


@pytest.mark.parametrize("name", ARCHS)
def test_out_and_in_again_is_bitwise(name):
    params = parameters(ARCHS[name])
    same(from_huggingface(ARCHS[name], to_huggingface(ARCHS[name], params)), params)


@pytest.mark.parametrize("name", ARCHS)
def test_in_and_out_again_is_what_transformers_holds(name):
    model = torch_model(name)
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    out = to_huggingface(ARCHS[name], from_huggingface(ARCHS[name], state))
    for key, tensor in out.items():
        np.testing.assert_array_equal(tensor, state[key], err_msg=key)
    # What is not written is tied to something that is.
    written = {key: value.data_ptr() for key, value in model.state_dict().items() if key in out}
    for key, value in model.state_dict().items():
        assert key in out or value.data_ptr() in written.values(), key


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "bart"])
def test_names_of_a_model_without_its_head(name):
    arch = base(ARCHS[name])
    params = parameters(arch)
    prefix = {"bert": "bert.", "roberta": "roberta.", "gpt2": "transformer.", "bart": "model."}[name]
    tensors = to_huggingface(arch, params)
    assert all(key.startswith(prefix) for key in tensors)
    same(from_huggingface(arch, {key.removeprefix(prefix): value for key, value in tensors.items()}), params)


def test_old_names_copies_and_buffers_are_accepted():
    arch = ARCHS["bert"]
    params = parameters(arch)
    tensors = to_huggingface(arch, params)
    words = "bert.embeddings.word_embeddings.weight"
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in tensors.items()
    }
    old |= {
        "bert.embeddings.position_ids": np.arange(20)[None],
        "cls.seq_relationship.weight": np.zeros((2, 24), np.float32),
        "cls.predictions.decoder.weight": tensors[words].copy(),
        "bert.pooler.dense.weight": np.zeros((24, 24), np.float32),
    }
    same(from_huggingface(arch, old), params)
    del old[words]  # only the copy is left
    same(from_huggingface(arch, old), params)


def test_half_precision_becomes_float32():
    arch = ARCHS["gpt2"]
    tensors = {key: value.astype(np.float16) for key, value in to_huggingface(arch, parameters(arch)).items()}
    params = flatten(from_huggingface(arch, tensors))
    assert all(leaf.dtype == np.float32 for leaf in params.values())
    np.testing.assert_array_equal(params["tokens/embedding"], tensors["transformer.wte.weight"])


def test_what_does_not_fit_is_named():
    arch = ARCHS["gpt2"]
    params = parameters(arch)
    tensors = to_huggingface(arch, params)
    fused = "transformer.h.1.attn.c_attn.weight"
    with pytest.raises(UserError, match=rf"{fused} is missing"):
        from_huggingface(arch, {key: value for key, value in tensors.items() if key != fused})
    with pytest.raises(UserError, match=r"\(24, 24\), the architecture says \(24, 72\)"):
        from_huggingface(arch, tensors | {fused: np.zeros((24, 24), np.float32)})
    with pytest.raises(UserError, match=r"transformer\.h\.2\.ln_1\.bias is unexpected"):
        from_huggingface(arch, tensors | {"transformer.h.2.ln_1.bias": np.zeros(24, np.float32)})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        from_huggingface(arch, tensors | {"lm_head.weight": np.zeros((48, 24), np.float32)})
    with pytest.raises(UserError, match="tokens/embedding has shape"):
        to_huggingface(arch, params | {"tokens": {"embedding": np.zeros((3, 24))}})
    with pytest.raises(UserError, match="tokens/embedding is missing"):
        to_huggingface(arch, {key: value for key, value in params.items() if key != "tokens"})
    with pytest.raises(UserError, match="extra is not of this architecture"):
        to_huggingface(arch, params | {"extra": np.zeros(1)})
    with pytest.raises(UserError, match="no Hugging Face name"):
        list(expected(replace(arch, structure="encoder")))


def test_flatten_and_unflatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
