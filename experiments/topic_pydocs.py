"""Which package a docstring is of, told by a BERT-tiny: a task for every machine, on the embedded corpus.

Command:  python -m research train experiments/topic_pydocs.py
          python -m research evaluate runs/topic_pydocs --split test --out scores/topic_pydocs
Cost:     3 minutes on two cores that were busy with other work too.
Result:   test accuracy 0.646 [0.612, 0.680]; always naming the most frequent package, 0.323.
Source:   the docstrings of Python and of the pinned packages; 25 labels, of which the largest has 38 % of the training examples.
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
        optimizer=Optimizer("muon", learning_rate=4e-3),
        schedule=Schedule("linear", warmup=50),
        steps=400,
        batch_size=16,
        evaluate_every=100,
        save_every=100,
        best_by="accuracy",
    )
