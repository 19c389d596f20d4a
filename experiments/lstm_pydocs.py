"""A small LSTM trained on the documentation that every Python installation carries, read as 16 streams.

Command:  python -m research train experiments/lstm_pydocs.py
Trap:     after 200 steps AdamW is at 6.66 (2e-3; unigram 6.70) where muon is at 5.26: two layers of LSTM begin slowly.
Source:   Zaremba et al. (2014), at the width of BERT-tiny.
"""

from experiments.pydocs import data
from research.config import Optimizer, Run, Schedule
from research.models.ladder import Recurrent
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    return Run(
        name="lstm_pydocs",
        arch=Recurrent("lstm", width=128, hidden_width=256, layers=2, dropout=0.1),
        objective=Causal(),
        data=data(order="stream", length=64),
        optimizer=Optimizer("muon", learning_rate=1e-2),  # see Trap
        schedule=Schedule("linear", warmup=50),
        steps=300,
        batch_size=16,
        evaluate_every=100,
        save_every=100,
        evaluate_rows=256,
    )
