"""The published sizes, with random weights, are the same functions here and in transformers."""

import jax
import numpy as np
import pytest

import research
from research.models.heads import logits
from research.models.build import parameter_count

pytestmark = pytest.mark.slow
TOKENS = np.random.default_rng(0).integers(5, 20_000, (2, 24)).astype(np.int32)


@pytest.mark.parametrize(
    ("kind", "count"),  # parameters with the LM head, tied ones once
    [("BertForMaskedLM", 109_514_298), ("GPT2LMHeadModel", 124_439_808), ("T5ForConditionalGeneration", 60_506_624)],
)
def test_a_published_size_has_the_logits_of_transformers(kind, count, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    config = cls.config_class()
    if kind.startswith("T5"):  # t5-small's, as transformers has no sizes by default that were published
        config = cls.config_class(d_model=512, d_ff=2048, num_layers=6, num_heads=8, d_kv=64, vocab_size=32128)
    theirs = cls(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = research.load(tmp_path)
    assert parameter_count(loaded.arch) == count
    ids = torch.tensor(TOKENS).long()
    inputs = {"tokens": TOKENS}
    more = {}
    if loaded.arch.structure == "encoder-decoder":
        inputs["source"], more["decoder_input_ids"] = TOKENS[:, ::-1].copy(), ids
        ids = torch.tensor(inputs["source"]).long()
    with torch.no_grad():
        expected = theirs(input_ids=ids, **more).logits.numpy()
    found = jax.jit(lambda params: logits(loaded.model, params, **inputs))(loaded.params)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
