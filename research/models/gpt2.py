"""GPT-2 (Radford et al., 2019): presets and Hugging Face names."""

from __future__ import annotations

from dataclasses import replace

from research.models.arch import Arch
from research.models.config_keys import ACTIVATIONS, Key
from research.models.rules import Rule, norms


def _gpt2(width: int, layers: int, heads: int) -> Arch:
    return Arch(
        family="gpt2",
        structure="decoder",
        vocab_size=50257,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=4 * width,
        max_length=1024,
        norm_epsilon=1e-5,
        norm_first=True,
        embedding_norm=False,
        final_norm=True,
        activation="gelu_tanh",
        head_transform=False,
        head_bias=False,
    )


PRESETS: dict[str, Arch] = {
    "gpt2-nano": replace(_gpt2(64, 2, 2), vocab_size=0, max_length=128),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
}

CONFIG: tuple[Key, ...] = (
    Key("vocab_size", "vocab_size"),
    Key("width", "n_embd"),
    Key("layers", "n_layer"),
    Key("heads", "n_head"),
    Key("mlp_width", "n_inner", lambda config: 4 * config["n_embd"]),
    Key("max_length", "n_positions"),
    Key("norm_epsilon", "layer_norm_epsilon", 1e-5),
    Key("activation", "activation_function", "gelu_new", ACTIVATIONS),
    Key("dropout", ("resid_pdrop", "embd_pdrop"), 0.1),
    Key("attention_dropout", "attn_pdrop", 0.1),
    Key("tied", "tie_word_embeddings", True),
)
FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
CLASSES = {
    "vocabulary": "GPT2LMHeadModel",
    "none": "GPT2Model",
    "sequence": "GPT2ForSequenceClassification",
    "tokens": "GPT2ForTokenClassification",
}

PREFIX = "transformer."
LAYER = "transformer.h.{i}."
BLOCK = "decoder/block_{i}/"


def _conv1d(ours: str | tuple[str, ...], theirs: str) -> tuple[Rule, Rule]:
    """Return the rules of OpenAI's Conv1D, whose weight is [in, out] as ours are."""
    paths = (ours,) if isinstance(ours, str) else ours
    kernels, biases = (tuple(f"{BLOCK}{path}/{leaf}" for path in paths) for leaf in ("kernel", "bias"))
    return Rule(kernels, f"{LAYER}{theirs}.weight"), Rule(biases, f"{LAYER}{theirs}.bias")


RULES: tuple[Rule, ...] = (
    Rule("tokens/embedding", "transformer.wte.weight"),
    Rule("decoder/positions/embedding", "transformer.wpe.weight"),
    *norms({BLOCK + "self_attention_norm": LAYER + "ln_1"}),
    *_conv1d(("self_attention/query", "self_attention/key", "self_attention/value"), "attn.c_attn"),
    *_conv1d("self_attention/out", "attn.c_proj"),
    *norms({BLOCK + "mlp_norm": LAYER + "ln_2"}),
    *_conv1d("mlp/up", "mlp.c_fc"),
    *_conv1d("mlp/down", "mlp.c_proj"),
    *norms({"decoder/final_norm": "transformer.ln_f"}),
    Rule("head/kernel", "lm_head.weight"),
    Rule("classifier/kernel", "score.weight", when="sequence"),
    Rule("classifier/kernel", "classifier.weight", when="tokens"),
    Rule("classifier/bias", "classifier.bias", when="tokens"),
)
COPIES = {"lm_head.weight": "transformer.wte.weight"}
IGNORED = (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)  # the causal mask, stored as a buffer
