"""RoBERTa (Liu et al., 2019): presets and Hugging Face names; BERT but for its vocabulary, offset and head."""

from __future__ import annotations

from dataclasses import replace

from research.models import bert
from research.models.arch import Arch
from research.models.config_keys import Key
from research.models.rules import HEADS, Rule, norms, projections

_BASE = Arch(
    family="roberta",
    structure="encoder",
    vocab_size=50265,
    width=768,
    layers=12,
    heads=12,
    mlp_width=3072,
    max_length=512,
    position_offset=2,  # fairseq numbers positions from the padding id (1) plus 1
    types=1,
    norm_epsilon=1e-5,
)

PRESETS: dict[str, Arch] = {
    "roberta-nano": replace(_BASE, vocab_size=0, width=64, layers=2, heads=2, mlp_width=256, max_length=128),
    "roberta-base": _BASE,
    "roberta-large": replace(_BASE, width=1024, layers=24, heads=16, mlp_width=4096),
}

CONFIG: tuple[Key, ...] = (
    *(key for key in bert.CONFIG if key.ours != "max_length"),
    Key("position_offset", "pad_token_id", 1, plus=-1),
    Key("max_length", "max_position_embeddings", plus="position_offset"),  # the rows of the whole table
)
FIXED = bert.FIXED
CLASSES = {
    "vocabulary": "RobertaForMaskedLM",
    "none": "RobertaModel",
    "sequence": "RobertaForSequenceClassification",
    "tokens": "RobertaForTokenClassification",
}

PREFIX = "roberta."
RULES: tuple[Rule, ...] = (
    *(
        rule._replace(theirs=rule.theirs.replace("bert.", "roberta.", 1))
        for rule in bert.RULES
        if not rule.paths[0].startswith(HEADS)
    ),
    *projections("head/{}", "lm_head.{}", {"transform": "dense"}),
    *norms({"head/norm": "lm_head.layer_norm"}),
    Rule("head/bias", "lm_head.bias"),
    Rule("head/kernel", "lm_head.decoder.weight"),
    # A classifier has a pooler of its own, beside which the base model's, which nothing trained, is not used.
    *projections("{}", "roberta.{}", {"pooler": "pooler.dense"}, when="vocabulary"),
    *projections("{}", "classifier.{}", {"pooler": "dense"}, when="sequence"),
    Rule("classifier/kernel", "classifier.out_proj.weight", when="sequence"),
    Rule("classifier/bias", "classifier.out_proj.bias", when="sequence"),
    Rule("classifier/kernel", "classifier.weight", when="tokens"),
    Rule("classifier/bias", "classifier.bias", when="tokens"),
)
COPIES = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
IGNORED = (r"roberta\.embeddings\.(position_ids|token_type_ids)",)
