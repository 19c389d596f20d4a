"""A small BERT pre-trained with masking on the documentation that every Python installation carries.

Command:  python -m research train experiments/mlm_pydocs.py
Source:   Devlin et al. (2019), section 3.1, without next-sentence prediction; size BERT-tiny of Turc et al. (2019).
"""

from dataclasses import replace

from experiments.pydocs import data
from research.config import Optimizer, Run, Schedule
from research.models import preset
from research.objectives.masked import Masked


def config() -> Run:
    """Return the run."""
    return Run(
        name="mlm_pydocs",
        arch=replace(preset("bert-tiny"), vocab_size=0, max_length=128, dropout=0.0, attention_dropout=0.0),
        objective=Masked(),
        data=data(),
        optimizer=Optimizer("muon", learning_rate=1e-2),  # at a few hundred steps, well ahead of adamw
        schedule=Schedule("linear", warmup=50),
        steps=340,
        batch_size=16,
        evaluate_every=170,
        save_every=170,
        evaluate_rows=256,
    )
