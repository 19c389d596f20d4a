"""A small GPT-2 pre-trained on the documentation that every Python installation carries.

Command:  python -m research train experiments/clm_pydocs.py
Source:   Radford et al. (2019), at the width of BERT-tiny.
"""

from dataclasses import replace

from experiments.pydocs import data
from research.config import Optimizer, Run, Schedule
from research.models import preset
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    gpt2 = replace(preset("gpt2"), vocab_size=0, width=128, layers=2, heads=2, mlp_width=512, max_length=128)
    return Run(
        name="clm_pydocs",
        arch=replace(gpt2, dropout=0.0, attention_dropout=0.0),
        objective=Causal(),
        data=data(),
        optimizer=Optimizer("muon", learning_rate=1e-2),  # at a few hundred steps, well ahead of adamw
        schedule=Schedule("linear", warmup=50),
        steps=150,
        batch_size=16,
        evaluate_every=75,
        save_every=75,
        evaluate_rows=256,
    )
