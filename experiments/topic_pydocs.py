"""Which package a docstring is of, told by a BERT-tiny: a task for every machine, on the embedded corpus.

Command:  python -m research train experiments/topic_pydocs.py
          python -m research evaluate runs/topic_pydocs --split test --out scores
Source:   the docstrings of Python and of the pinned packages; 24 labels, of which the largest has 44 % of the training examples.
"""

from dataclasses import replace

from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives.classification import Classification


def config() -> Run:
    """Return the run."""
    return Run(
        name="topic_pydocs",
        arch=replace(preset("bert-tiny"), vocab_size=0, max_length=128),
        objective=Classification(text="text", label="package"),
        data=Data(sources=(Source("pydocs", limit=4.0),), tokenizer=Tokenizer(kind="wordpiece", size=4096), length=128),
        optimizer=Optimizer(learning_rate=1e-3),
        schedule=Schedule("linear", warmup=50),
        steps=600,
        batch_size=16,
        evaluate_every=200,
        save_every=200,
        best_by="accuracy",
    )
