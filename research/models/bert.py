"""BERT (Devlin et al., 2019) and its smaller sisters (Turc et al., 2019): presets and Hugging Face names."""

from __future__ import annotations

from dataclasses import replace

from research.models.arch import Arch
from research.models.config_keys import ACTIVATIONS, Key
from research.models.rules import Rule, norms, projections


def _bert(width: int, layers: int, heads: int, vocab_size: int = 30522) -> Arch:
    return Arch(
        family="bert",
        structure="encoder",
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=4 * width,
        max_length=512,
        types=2,
        norm_epsilon=1e-12,
    )


PRESETS: dict[str, Arch] = {
    "bert-nano": replace(_bert(64, 2, 2, vocab_size=0), max_length=128),
    "bert-tiny": _bert(128, 2, 2),
    "bert-mini": _bert(256, 4, 4),
    "bert-small": _bert(512, 4, 8),
    "bert-medium": _bert(512, 8, 8),
    "bert-base-uncased": _bert(768, 12, 12),
    "bert-base-cased": _bert(768, 12, 12, vocab_size=28996),
    "bert-large-uncased": _bert(1024, 24, 16),
    "bert-large-cased": _bert(1024, 24, 16, vocab_size=28996),
}

CONFIG: tuple[Key, ...] = (
    Key("vocab_size", "vocab_size"),
    Key("width", "hidden_size"),
    Key("layers", "num_hidden_layers"),
    Key("heads", "num_attention_heads"),
    Key("mlp_width", "intermediate_size"),
    Key("max_length", "max_position_embeddings"),
    Key("types", "type_vocab_size", 2),
    Key("norm_epsilon", "layer_norm_eps", 1e-12),
    Key("activation", "hidden_act", "gelu", ACTIVATIONS),
    Key("dropout", "hidden_dropout_prob", 0.1),
    Key("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Key("tied", "tie_word_embeddings", True),
)
FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
CLASSES = {
    "vocabulary": "BertForMaskedLM",
    "none": "BertModel",
    "sequence": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
}

PREFIX = "bert."
LAYER = "bert.encoder.layer.{i}."
BLOCK = "encoder/block_{i}/"

RULES: tuple[Rule, ...] = (
    Rule("tokens/embedding", "bert.embeddings.word_embeddings.weight"),
    Rule("encoder/positions/embedding", "bert.embeddings.position_embeddings.weight"),
    Rule("encoder/types/embedding", "bert.embeddings.token_type_embeddings.weight"),
    *norms({"encoder/embedding_norm": "bert.embeddings.LayerNorm"}),
    *projections(
        BLOCK + "self_attention/{}",
        LAYER + "attention.{}",
        {"query": "self.query", "key": "self.key", "value": "self.value", "out": "output.dense"},
    ),
    *norms({BLOCK + "self_attention_norm": LAYER + "attention.output.LayerNorm"}),
    *projections(BLOCK + "mlp/{}", LAYER + "{}", {"up": "intermediate.dense", "down": "output.dense"}),
    *norms({BLOCK + "mlp_norm": LAYER + "output.LayerNorm"}),
    *projections("{}", "bert.{}", {"pooler": "pooler.dense"}),
    *projections("head/{}", "cls.predictions.{}", {"transform": "transform.dense"}),
    *norms({"head/norm": "cls.predictions.transform.LayerNorm"}),
    Rule("head/bias", "cls.predictions.bias"),
    Rule("head/kernel", "cls.predictions.decoder.weight"),
    Rule("classifier/kernel", "classifier.weight"),
    Rule("classifier/bias", "classifier.bias"),
)
COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
IGNORED = (r"cls\.seq_relationship\..*", r"bert\.embeddings\.(position_ids|token_type_ids)")
