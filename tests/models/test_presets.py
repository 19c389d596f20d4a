"""Presets are the published models: parameter counts, and shapes that validate."""

import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from research.models import preset, presets
from research.models.arch import Arch, base, validate
from research.models.build import parameter_count, parameter_shapes
from research.types import UserError

# As the published base checkpoints count: BERT and RoBERTa with pooler and no heads, BART without its logits bias,
# T5 v1.1 with its untied output projection, every tied tensor once.
PUBLISHED = {
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "bert-base-uncased": 109_482_240,
    "bert-base-cased": 108_310_272,
    "bert-large-uncased": 335_141_888,
    "bert-large-cased": 333_579_264,
    "roberta-base": 124_645_632,
    "roberta-large": 355_359_744,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    """Counted on fewer blocks and extended: blocks are alike, and tracing 48 of them would take seconds."""
    arch = validate(base(preset(name)))
    one, two = (parameter_count(replace(arch, layers=n, decoder_layers=0)) for n in (1, 2))
    assert one + (arch.layers - 1) * (two - one) == PUBLISHED[name]


def test_the_count_of_a_whole_model():
    assert parameter_count(base(preset("bert-base-uncased"))) == PUBLISHED["bert-base-uncased"]
    # The pre-training model, as transformers' BertForMaskedLM counts it: a head and no pooler.
    assert parameter_count(preset("bert-base-uncased")) == 109_514_298
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(parameter_shapes(preset("t5-small"))))


def test_every_preset_is_published_or_nano_and_builds():
    assert {name for name in presets() if "nano" not in name} == set(PUBLISHED)
    for name, arch in presets().items():
        validate(arch)
        if "nano" in name:
            assert arch.vocab_size == 0
            assert parameter_count(replace(arch, vocab_size=1000)) < 500_000


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'bert-base-uncased'"):
        preset("bert-base-uncase")


def test_presets_import_no_jax():
    code = "import sys, research.models, research.models.arch; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 130}, "divisible"),
        ({"width": 0}, "width"),
        ({"layers": -1}, "layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"vocab_size": -5}, "vocab_size"),
        ({"decoder_layers": 3}, "decoder_layers"),
        ({"norm_epsilon": 0.0}, "norm_epsilon"),
        ({"positions": "relative", "relative_buckets": 7}, "relative_buckets"),
        ({"positions": "relative", "relative_distance": 16}, "relative_distance"),
        ({"tied": False, "scale_logits": True}, "scale_logits"),
    ],
)
def test_what_is_wrong_with_a_shape_is_named(fields, message):
    with pytest.raises(UserError, match=f"arch.{message}|{message}"):
        validate(replace(Arch(), **fields))
