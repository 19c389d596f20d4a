"""A small T5 pre-trained with span corruption on the documentation that every Python installation carries.

Command:  python -m research train experiments/span_pydocs.py
Source:   Raffel et al. (2020), section 3.1.4, at the width of BERT-tiny.
"""

from dataclasses import replace

from experiments.pydocs import data
from research.config import Optimizer, Run, Schedule
from research.models import preset
from research.objectives.span_corruption import SpanCorruption


def config() -> Run:
    """Return the run."""
    t5 = replace(preset("t5-small"), vocab_size=0, width=128, layers=2, heads=2, mlp_width=512)
    return Run(
        name="span_pydocs",
        arch=replace(t5, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0),
        objective=SpanCorruption(),
        data=data(framing="none"),
        optimizer=Optimizer("muon", learning_rate=1e-2),  # at a few hundred steps, well ahead of adamw
        schedule=Schedule("linear", warmup=50),
        steps=240,
        batch_size=16,
        evaluate_every=120,
        save_every=120,
        evaluate_rows=256,
    )
