"""Slow references for the models: `transformers` in torch with random weights, and attention in plain numpy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from research.models import preset
from research.models.arch import Arch
from research.models.paths import flatten
from research.models.build import parameter_shapes

VOCABULARY = 48
PAD = 1  # as RoBERTa's and BART's tokenizers number it: those models look at the id


def tiny(name: str, **fields: Any) -> Arch:
    """Return the preset `name` at a size where every dimension differs from the others."""
    small = {"vocab_size": VOCABULARY, "width": 24, "layers": 2, "heads": 3, "mlp_width": 40, "max_length": 20}
    return replace(preset(name), **small, head_width=0 if "t5" not in name else 10, **fields)


ARCHS = {
    "bert": tiny("bert-nano"),
    "roberta": tiny("roberta-nano"),
    "gpt2": tiny("gpt2-nano"),
    "t5": tiny("t5-nano", decoder_layers=1, relative_buckets=8, relative_distance=12),
    "t5-v1.1": tiny("t5-v1.1-nano", decoder_layers=1, relative_buckets=8, relative_distance=12),
    "bart": tiny("bart-nano", decoder_layers=1),
}


def parameters(arch: Arch) -> Any:
    """Return parameters of `arch`, all drawn from N(0, 1)."""
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), parameter_shapes(arch))


def same(a: Any, b: Any) -> None:
    """Assert that two nested dicts hold the same arrays, bit for bit."""
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def torch_model(name: str, seed: int = 0) -> Any:
    """Return the `transformers` model of ARCHS[name] in eval mode, every tensor redrawn so that no two are alike."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    arch = ARCHS[name]
    common = {"vocab_size": arch.vocab_size, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
    encoder = {
        "hidden_size": arch.width,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "intermediate_size": arch.mlp_width,
        "max_position_embeddings": arch.max_length + arch.position_offset,
        "type_vocab_size": arch.types,
        "layer_norm_eps": arch.norm_epsilon,
    }
    t5 = {
        "d_model": arch.width,
        "d_kv": arch.head_width,
        "d_ff": arch.mlp_width,
        "num_layers": arch.layers,
        "num_decoder_layers": arch.depth,
        "num_heads": arch.heads,
        "relative_attention_num_buckets": arch.relative_buckets,
        "relative_attention_max_distance": arch.relative_distance,
        "tie_word_embeddings": arch.tied,
        "feed_forward_proj": "gated-gelu" if arch.gated else "relu",
    }
    match arch.family:
        case "bert":
            make, config = transformers.BertForMaskedLM, transformers.BertConfig(**common, **encoder)
        case "roberta":
            make, config = transformers.RobertaForMaskedLM, transformers.RobertaConfig(**common, **encoder)
        case "gpt2":
            make = transformers.GPT2LMHeadModel
            sizes = {"n_embd": arch.width, "n_layer": arch.layers, "n_head": arch.heads, "n_inner": arch.mlp_width}
            config = transformers.GPT2Config(**common, **sizes, n_positions=arch.max_length)
        case "t5":
            make, config = transformers.T5ForConditionalGeneration, transformers.T5Config(**common, **t5)
        case "bart":
            make = transformers.BartForConditionalGeneration
            sizes = {f"{side}_{field}": value for side in ("encoder", "decoder") for field, value in (
                ("attention_heads", arch.heads), ("ffn_dim", arch.mlp_width))}
            config = transformers.BartConfig(
                **common, **sizes, d_model=arch.width, encoder_layers=arch.layers, decoder_layers=arch.depth,
                max_position_embeddings=arch.max_length, decoder_start_token_id=2,
            )
    model = make._from_config(config, attn_implementation="eager").eval()
    if not arch.tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in trainable(model).items():
            scale = "norm" in key.lower() or "ln_" in key
            tensor.normal_(1.0 if scale and key.endswith("weight") else 0.0, 0.1, generator=generator)
            tensor.requires_grad_()
    return model


def trainable(model: Any) -> dict[str, Any]:
    """Return the model's parameters by name, each once, and BART's logits bias, which is a buffer there."""
    buffers = {key: value for key, value in model.named_buffers() if key == "final_logits_bias"}
    return dict(model.named_parameters()) | buffers


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
    """Return attention of one row and head, [T, d] of [T, d], [S, d], [S, d], bool[T, S], one number at a time."""
    out = np.zeros((len(query), value.shape[1]))
    for t in range(len(query)):
        seen = [s for s in range(len(key)) if mask[t, s]]
        weights = [math.exp(scale * float(query[t] @ key[s])) for s in seen]
        for s, weight in zip(seen, weights, strict=True):
            out[t] += weight / sum(weights) * value[s]
    return out


def influence(arch: Arch, segments: list[int], prefix: list[bool] | None = None) -> np.ndarray:
    """Return bool[T, T]: whether token s may change the state at t (within the encoder, or within the decoder)."""
    length = len(segments)
    seen = np.zeros((length, length), bool)
    for t in range(length):
        for s in range(length):
            past = s <= t or arch.structure == "encoder" or (prefix is not None and prefix[s])
            seen[t, s] = segments[t] == segments[s] and past
    return seen
