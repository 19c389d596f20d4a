"""config.json goes both ways, `transformers` builds the same model from it, and whatever is wrong with one is named."""

import json
import time
from dataclasses import replace

import pytest

from research.interop.config_json import read, to_arch, to_config
from research.models import presets
from research.models.arch import Arch, base
from research.models.rules import expected
from research.types import UserError
from tests.models.oracles import ARCHS

IDS = {"pad": 1, "bos": 0, "eos": 2, "decoder_start": 2}
BERT = {
    "model_type": "bert",
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 48, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 20}
T5 = {"model_type": "t5", "vocab_size": 48, "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_heads": 3}
BART = {"model_type": "bart", "vocab_size": 48, "d_model": 24, "max_position_embeddings": 20} | {
    f"{side}_{size}": value
    for side in ("encoder", "decoder")
    for size, value in {"layers": 2, "attention_heads": 3, "ffn_dim": 40}.items()
}


def published() -> dict[str, Arch]:
    """Return every preset, with a vocabulary, and the small architectures whose stacks differ in depth."""
    return {name: replace(arch, vocab_size=arch.vocab_size or 100) for name, arch in presets().items()} | ARCHS


@pytest.mark.parametrize("name", published())
def test_out_and_in_again_is_the_same(name):
    arch = published()[name]
    other = replace(arch, dropout=0.25)
    if arch.family == "t5":  # one rate for all
        other = replace(other, attention_dropout=0.25, activation_dropout=0.25)
    unused = {"max_length": 512} if arch.positions == "relative" else {}
    for one in (arch, other):
        assert to_arch(json.loads(json.dumps(to_config(one, **IDS)))) == replace(one, **unused)


@pytest.mark.parametrize("name", ARCHS)
def test_transformers_builds_the_same_model(name, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    arch = ARCHS[name]
    for one, head in ((arch, True), (base(arch), False)):
        (tmp_path / "config.json").write_text(json.dumps(to_config(one, **IDS)))
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        assert config.pad_token_id == 1 and config.eos_token_id == 2
        assert to_arch(json.loads(config.to_json_string())) == to_arch(read(tmp_path))  # as they write it
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])(config)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        for rule, paths, key, ours in expected(one):
            prefix = "" if head else {"bert": "bert.", "roberta": "roberta.", "bart": "model."}.get(arch.family, "")
            shape = (*ours[0][:-1], sum(size[-1] for size in ours))
            shape = shape[::-1] if rule.turn == "transpose" else (1, *shape) if rule.turn == "row" else shape
            assert shapes[key.removeprefix(prefix)] == shape, paths


def test_what_old_files_leave_out():
    assert to_arch(BERT) == ARCHS["bert"]
    assert to_arch(GPT2).mlp_width == 96
    assert to_arch(GPT2 | {"n_inner": None, "activation_function": "gelu_fast"}) == to_arch(GPT2)
    sizes = {"decoder_layers": 0, "relative_buckets": 32, "relative_distance": 128, "max_length": 512}
    assert to_arch(T5) == replace(ARCHS["t5"], **sizes)
    assert to_arch(BART).attention_dropout == 0.0


def test_t5_is_tied_and_scaled_as_transformers_has_it():
    gated = T5 | {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
    for said in ({"tie_word_embeddings": False}, {"tie_word_embeddings": True, "scale_decoder_outputs": False}):
        arch = to_arch(gated | said)
        assert (arch.tied, arch.scale_logits, arch.gated, arch.activation) == (False, False, True, "gelu_tanh")
    arch = to_arch(gated)
    assert (arch.tied, arch.scale_logits) == (True, True)
    # A tied projection without scaling is told by its tensors: config.json says as v1.1's.
    config = to_config(replace(arch, scale_logits=False), **IDS)
    assert config["tie_word_embeddings"] is False and config["scale_decoder_outputs"] is False


def test_positions_of_roberta_begin_after_the_padding_id():
    roberta = BERT | {"model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    assert to_arch(roberta).max_length == 18
    arch = to_arch(roberta | {"pad_token_id": 0})
    assert (arch.position_offset, arch.max_length) == (1, 19)
    assert to_arch(to_config(arch, pad=0, bos=1, eos=2)) == arch
    with pytest.raises(UserError, match="position_offset is 2, but with this padding id roberta has 1: renumber"):
        to_config(ARCHS["roberta"], pad=0, bos=1, eos=2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "has no model_type.*supported: bert, roberta, gpt2, t5, bart"),
        ({"model_type": "llama"}, 'model_type "llama" is not supported.*bert, roberta, gpt2, t5, bart'),
        ({"model_type": "gpt-2"}, "did you mean gpt2"),
        ({"model_type": ["bert"]}, "is not supported"),
        ({k: v for k, v in BERT.items() if k != "hidden_size"}, "hidden_size is missing"),
        (BERT | {"vocab_size": 10**12}, "vocab_size is 1000000000000: it must be a whole number of at most 2147483647"),
        (BERT | {"vocab_size": "48"}, 'vocab_size is "48": it must be a whole number'),
        (BERT | {"vocab_size": True}, "vocab_size is true: it must be a whole number"),
        (BERT | {"vocab_size": 0}, "vocab_size is 0: it must be at least 1"),
        (BERT | {"num_hidden_layers": -1}, "num_hidden_layers is -1: it must be at least 1"),
        (BERT | {"hidden_size": 25}, "hidden_size 25 is not divisible by num_attention_heads 3"),
        (BERT | {"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob is NaN: it must be a number"),
        (BERT | {"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1.0: it must be at least 0 and less than 1"),
        (BERT | {"hidden_act": "swish"}, 'hidden_act is "swish", but only gelu, gelu_new'),
        (BERT | {"hidden_act": {"a": ["long"] * 99}}, "hidden_act is .*\\.\\.\\., but only"),
        (BERT | {"tie_word_embeddings": 1}, "tie_word_embeddings is 1: it must be true or false"),
        (BERT | {"position_embedding_type": "relative_key"}, 'position_embedding_type is "relative_key", but only'),
        (BERT | {"is_decoder": True}, "is_decoder is true, but only false"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true"),
        (GPT2 | {"scale_attn_weights": False}, "scale_attn_weights is false, but only true"),
        (GPT2 | {"resid_pdrop": 0.2}, "resid_pdrop is 0.2 but embd_pdrop is 0.1: only equal ones are supported"),
        (T5 | {"feed_forward_proj": "gated-silu"}, 'feed_forward_proj is "gated-silu", but only relu, gated-gelu'),
        (BART | {"scale_embedding": True}, "scale_embedding is true"),
        (BART | {"decoder_ffn_dim": 48}, "encoder_ffn_dim is 40 but decoder_ffn_dim is 48"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(config, said):
    start = time.perf_counter()
    with pytest.raises(UserError, match=rf"^F/config\.json: .*{said}") as error:
        to_arch(config, "F/config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert time.perf_counter() - start < 1


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="config.json is missing"):
        read(tmp_path)
    for text, said in (("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[1]", "not a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=said):
            read(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not JSON"):
        read(tmp_path)


def test_what_cannot_be_written_is_named():
    arch = ARCHS["bert"]
    with pytest.raises(UserError, match="vocab_size is 0"):
        to_config(replace(arch, vocab_size=0), **IDS)
    with pytest.raises(UserError, match="eos_token_id 48 is not below"):
        to_config(arch, pad=0, bos=None, eos=48)
    with pytest.raises(UserError, match="arch.norm_first is True, but this bert's config.json says False"):
        to_config(replace(arch, norm_first=True), **IDS)
    with pytest.raises(UserError, match="arch.activation is gelu, but this t5's config.json says relu"):
        to_config(replace(ARCHS["t5"], activation="gelu"), **IDS)
    assert to_config(replace(ARCHS["t5"], dropout=0.3), **IDS)["dropout_rate"] == 0.3
