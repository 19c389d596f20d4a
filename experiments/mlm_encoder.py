"""A BERT of 4 blocks x 256 (BERT-mini) pre-trained on WikiText-2 and pydocs, in the pieces of bert-base-uncased.

What the fine-tuning experiments start from; `mlm_encoder_cased.py` is its sister for names.

Command:  TERCET_DATA=... python -m research train experiments/mlm_encoder.py
Cost:     88 minutes for 8.2 million tokens on two cores that were busy with other work too, in float32.
Result:   validation loss 10.389 -> 5.517 of 30 % masked, unigram 6.747.
Trap:     at a rate of 1e-2 with a decay of 0.01 the matrices grow to 0.15 a weight (0.02 at first) within 2,000 steps: attention
          saturates, the loss stays at 6.0, and fine-tuning learns more slowly than from scratch.
Source:   Devlin et al. (2019), section 3.1, without next-sentence prediction; size of Turc et al. (2019).
"""

from dataclasses import replace

from experiments.wikitext2 import data
from research.config import Optimizer, Run, Schedule
from research.data.sources import Source
from research.models import preset
from research.objectives.masked import Masked


def config(tokenizer: str = "bert-base-uncased") -> Run:
    """Return the run, in the pieces of a published `tokenizer`."""
    text = data(tokenizer)
    wikitext = replace(text.sources[0], weight=0.75)
    return Run(
        name="mlm_encoder",
        arch=replace(preset("bert-mini"), vocab_size=0, max_length=128, dropout=0.0, attention_dropout=0.0),
        objective=Masked(rate=0.3),  # twice the targets for a fifth more time: Wettig et al. (2023) find 0.15 no optimum
        data=replace(text, sources=(wikitext, Source("pydocs", weight=0.25))),
        optimizer=Optimizer("muon", learning_rate=3e-3, weight_decay=0.1),  # see Trap
        schedule=Schedule("linear", warmup=100),
        steps=2000,
        batch_size=32,
        evaluate_every=500,
        evaluate_rows=512,
        save_every=250,
    )
