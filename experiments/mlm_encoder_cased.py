"""The encoder of `mlm_encoder.py` in the pieces of bert-base-cased: capitals tell names apart.

Command:  TERCET_DATA=... python -m research train experiments/mlm_encoder_cased.py
Cost:     119 minutes for 8.2 million tokens on two cores that were busy with other work too, in float32.
Result:   validation loss 10.293 -> 5.685 of 30 % masked, unigram 6.951.
Source:   as mlm_encoder.py.
"""

from dataclasses import replace

from experiments import mlm_encoder
from research.config import Run


def config() -> Run:
    """Return the run."""
    return replace(mlm_encoder.config("bert-base-cased"), name="mlm_encoder_cased")
