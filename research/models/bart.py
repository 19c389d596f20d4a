"""BART (Lewis et al., 2020): presets and Hugging Face names."""

from __future__ import annotations

from dataclasses import replace

from research.models.arch import Arch
from research.models.config_keys import ACTIVATIONS, Key
from research.models.rules import Rule, norms, projections

_BASE = Arch(
    family="bart",
    structure="encoder-decoder",
    vocab_size=50265,
    width=768,
    layers=6,
    heads=12,
    mlp_width=3072,
    max_length=1024,
    position_offset=2,  # fairseq numbers positions from the padding id (1) plus 1
    norm_epsilon=1e-5,
    head_transform=False,
    activation_dropout=0.1,
)

PRESETS: dict[str, Arch] = {
    "bart-nano": replace(_BASE, vocab_size=0, width=64, layers=2, heads=2, mlp_width=256, max_length=128),
    "bart-base": _BASE,
    "bart-large": replace(_BASE, width=1024, layers=12, heads=16, mlp_width=4096),
}

CONFIG: tuple[Key, ...] = (
    Key("vocab_size", "vocab_size"),
    Key("width", "d_model"),
    Key("layers", "encoder_layers"),
    Key("decoder_layers", "decoder_layers"),
    Key("heads", ("encoder_attention_heads", "decoder_attention_heads")),
    Key("mlp_width", ("encoder_ffn_dim", "decoder_ffn_dim")),
    Key("max_length", "max_position_embeddings"),  # without the offset, unlike RoBERTa's
    Key("activation", "activation_function", "gelu", ACTIVATIONS),
    Key("dropout", "dropout", 0.1),
    Key("attention_dropout", "attention_dropout", 0.0),
    Key("activation_dropout", "activation_dropout", 0.0),
    Key("tied", "tie_word_embeddings", True),
)
FIXED = {
    "is_encoder_decoder": True,
    "is_decoder": False,
    "scale_embedding": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
}
CLASSES = {"vocabulary": "BartForConditionalGeneration", "none": "BartModel"}

PREFIX = "model."


def _stack(stack: str) -> tuple[Rule, ...]:
    ours, theirs = f"{stack}/block_{{i}}/", f"model.{stack}.layers.{{i}}."
    return (
        Rule(f"{stack}/positions/embedding", f"model.{stack}.embed_positions.weight"),
        *norms({f"{stack}/embedding_norm": f"model.{stack}.layernorm_embedding"}),
        *_attention(ours + "self_attention", theirs + "self_attn"),
        *projections(ours + "mlp/{}", theirs + "{}", {"up": "fc1", "down": "fc2"}),
        *norms({ours + "mlp_norm": theirs + "final_layer_norm"}),
    )


def _attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return (*projections(ours + "/{}", theirs + ".{}", names), *norms({ours + "_norm": theirs + "_layer_norm"}))


RULES: tuple[Rule, ...] = (
    Rule("tokens/embedding", "model.shared.weight"),
    *_stack("encoder"),
    *_stack("decoder"),
    *_attention("decoder/block_{i}/cross_attention", "model.decoder.layers.{i}.encoder_attn"),
    Rule("head/bias", "final_logits_bias", "row"),  # a buffer of zeros there; trained here
    Rule("head/kernel", "lm_head.weight"),
)
COPIES = {
    "model.encoder.embed_tokens.weight": "model.shared.weight",
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "lm_head.weight": "model.shared.weight",
}
IGNORED = ()
