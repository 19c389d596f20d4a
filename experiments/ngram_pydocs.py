"""N-grams of order 4 counted in the documentation that every Python installation carries: what neural models are to beat.

Command:  python -m research train experiments/ngram_pydocs.py
          python -m research report runs/ngram_pydocs runs/lstm_pydocs runs/clm_pydocs --split validation --out report
Source:   Kneser and Ney (1995), modified by Chen and Goodman (1998).
"""

from experiments.pydocs import data
from research.config import Run
from research.models.ngram import Ngram
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    return Run(name="ngram_pydocs", arch=Ngram(order=4), objective=Causal(), data=data())
