"""T5 v1.0 (Raffel et al., 2020) and v1.1 (Shazeer, 2020; google-research/t5): presets and Hugging Face names."""

from __future__ import annotations

from dataclasses import replace

from research.models.arch import Arch
from research.models.config_keys import Key
from research.models.rules import Rule, norms, projections


def _t5(width: int, layers: int, heads: int, mlp_width: int, head_width: int = 64) -> Arch:
    return Arch(
        family="t5",
        structure="encoder-decoder",
        vocab_size=32128,
        width=width,
        layers=layers,
        heads=heads,
        head_width=head_width,
        mlp_width=mlp_width,
        positions="relative",
        norm="rms",
        norm_epsilon=1e-6,
        norm_first=True,
        embedding_norm=False,
        final_norm=True,
        activation="relu",
        bias=False,
        scale_attention=False,
        scale_logits=True,
        head_transform=False,
        head_bias=False,
        activation_dropout=0.1,
        final_dropout=True,
    )


def _v1_1(width: int, layers: int, heads: int, mlp_width: int) -> Arch:
    """Return a v1.1: gated, untied, and pre-trained without dropout, which fine-tuning should switch back on."""
    return replace(
        _t5(width, layers, heads, mlp_width),
        activation="gelu_tanh",
        gated=True,
        tied=False,
        scale_logits=False,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )


PRESETS: dict[str, Arch] = {
    "t5-nano": replace(_t5(64, 2, 2, 256, head_width=32), vocab_size=0),
    "t5-small": _t5(512, 6, 8, 2048),
    "t5-base": _t5(768, 12, 12, 3072),
    "t5-large": _t5(1024, 24, 16, 4096),
    "t5-3b": _t5(1024, 24, 32, 16384, head_width=128),
    "t5-11b": _t5(1024, 24, 128, 65536, head_width=128),
    "t5-v1.1-nano": replace(_v1_1(64, 2, 2, 128), vocab_size=0, head_width=32),
    "t5-v1.1-small": _v1_1(512, 8, 6, 1024),
    "t5-v1.1-base": _v1_1(768, 12, 12, 2048),
    "t5-v1.1-large": _v1_1(1024, 24, 16, 2816),
    "t5-v1.1-xl": _v1_1(2048, 24, 32, 5120),
    "t5-v1.1-xxl": _v1_1(4096, 24, 64, 10240),
}

# Absent in old files; `transformers` 5 writes it, as it sets tie_word_embeddings to true whatever the file holds. So
# both of ours follow it, and who reads the file calls an architecture tied too if there is no output projection in it.
SCALE = "scale_decoder_outputs"

CONFIG: tuple[Key, ...] = (
    Key("vocab_size", "vocab_size"),
    Key("width", "d_model"),
    Key("layers", "num_layers"),
    Key("decoder_layers", "num_decoder_layers", lambda config: config["num_layers"]),
    Key("heads", "num_heads"),
    Key("head_width", "d_kv"),
    Key("mlp_width", "d_ff"),
    Key("relative_buckets", "relative_attention_num_buckets", 32),
    Key("relative_distance", "relative_attention_max_distance", 128),
    Key("norm_epsilon", "layer_norm_epsilon", 1e-6),
    Key(
        ("activation", "gated"),
        "feed_forward_proj",
        "relu",
        {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True), "gated-relu": ("relu", True)},
    ),
    Key(("dropout", "attention_dropout", "activation_dropout"), "dropout_rate", 0.1),
    Key("scale_logits", "tie_word_embeddings", True),
    Key(("scale_logits", "tied"), SCALE, lambda config: config.get("tie_word_embeddings") is not False),
)
FIXED = {"is_encoder_decoder": True, "is_decoder": False}
CLASSES = {"vocabulary": "T5ForConditionalGeneration", "none": "T5Model"}

PREFIX = ""
QKVO = {"query": "q", "key": "k", "value": "v", "out": "o"}
RELATIVE = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def _stack(stack: str, mlp: int) -> tuple[Rule, ...]:
    """Return the rules of one stack, whose feed-forward block is sub-layer `mlp` of each layer."""
    ours, theirs = f"{stack}/block_{{i}}/", f"{stack}.block.{{i}}.layer."
    linear = f"{theirs}{mlp}.DenseReluDense."
    return (
        Rule(f"{stack}/relative/embedding", stack + RELATIVE),
        *projections(ours + "self_attention/{}", theirs + "0.SelfAttention.{}", QKVO, bias=False),
        *norms({ours + "self_attention_norm": theirs + "0.layer_norm"}, bias=False),
        Rule(ours + "mlp/up/kernel", linear + "wi.weight", "transpose", when="ungated"),
        Rule(ours + "mlp/gate/kernel", linear + "wi_0.weight", "transpose", when="gated"),
        Rule(ours + "mlp/up/kernel", linear + "wi_1.weight", "transpose", when="gated"),
        Rule(ours + "mlp/down/kernel", linear + "wo.weight", "transpose"),
        *norms({ours + "mlp_norm": f"{theirs}{mlp}.layer_norm"}, bias=False),
        *norms({f"{stack}/final_norm": f"{stack}.final_layer_norm"}, bias=False),
    )


RULES: tuple[Rule, ...] = (
    Rule("tokens/embedding", "shared.weight"),
    *_stack("encoder", mlp=1),
    *_stack("decoder", mlp=2),
    *projections(
        "decoder/block_{i}/cross_attention/{}", "decoder.block.{i}.layer.1.EncDecAttention.{}", QKVO, bias=False
    ),
    *norms({"decoder/block_{i}/cross_attention_norm": "decoder.block.{i}.layer.1.layer_norm"}, bias=False),
    Rule("head/kernel", "lm_head.weight"),
)
COPIES = {
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
    "lm_head.weight": "shared.weight",
}
# Early conversions gave cross-attention a table that nothing reads.
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
