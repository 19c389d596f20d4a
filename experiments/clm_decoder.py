"""A GPT-2 of 4 blocks x 256 pre-trained on WikiText-2 and pydocs: what the experiments on dialogue start from.

Command:  TERCET_DATA=... python -m research train experiments/clm_decoder.py
Cost:     19 minutes for 4.1 million tokens on two cores that were busy with other work too.
Result:   validation loss 9.044 -> 3.888, unigram 6.952.
Source:   Radford et al. (2019), at the size of BERT-mini; byte-level BPE of 8,192 trained on the same text.
"""

from dataclasses import replace

from experiments import mlm_encoder
from research.config import Run
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    run = mlm_encoder.config()
    arch = replace(preset("gpt2-nano"), width=256, layers=4, heads=4, mlp_width=1024, max_length=384)
    return replace(
        run,
        name="clm_decoder",
        arch=replace(arch, dropout=0.0, attention_dropout=0.0),
        objective=Causal(),
        data=replace(run.data, tokenizer=Tokenizer(kind="bpe", size=8192, sentinels=0), unknown="", length=128),
        steps=1000,
    )
