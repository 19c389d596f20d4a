"""A T5 of 4 + 4 blocks x 256 on WikiText-2, span corruption, in the pieces of t5-small.

Command:  python -m research train experiments/span_wikitext2.py
Cost:     18 minutes for 1.0 million tokens on two cores.
Result:   validation loss 10.973 -> 5.521; unigram 6.090 (the <unk>-ed edition).
Source:   Raffel et al. (2020), section 3.1.4.
"""

from dataclasses import replace

from experiments.wikitext2 import data
from research.config import Optimizer, Run, Schedule
from research.models import preset
from research.objectives.span_corruption import SpanCorruption


def config() -> Run:
    """Return the run."""
    t5 = replace(preset("t5-small"), width=256, layers=4, heads=4, head_width=64, mlp_width=1024)
    return Run(
        name="span_wikitext2",
        arch=replace(t5, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0),
        objective=SpanCorruption(),
        data=data("t5-small", framing="none"),
        optimizer=Optimizer(learning_rate=1e-3),
        schedule=Schedule("linear", warmup=100),
        steps=500,
        batch_size=16,
        evaluate_every=250,
        save_every=250,
    )
