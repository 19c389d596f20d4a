"""SST-2, the sentiment of a sentence from a film review, from scratch.

Command:  TERCET_DATA=data python -m research train experiments/sst2.py
          TERCET_DATA=data python -m research train experiments/sst2.py --init.path runs/mlm_encoder --out runs/sst2_pretrained
Source:   Socher et al. (2013), sentence level, 6,920 / 872 / 1,821 sentences.
"""

import os
import pathlib
from dataclasses import replace

from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.sources import Source
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives.classification import Classification

FOLDER = pathlib.Path(os.environ.get("TERCET_DATA", "data"))


def config() -> Run:
    """Return the run."""
    return Run(
        name="sst2",
        arch=replace(preset("bert-mini"), vocab_size=0, max_length=128),
        objective=Classification(),
        data=Data(
            sources=(Source(str(FOLDER / "sst2")),),
            tokenizer=Tokenizer(str(FOLDER.parent / "tokenizers" / "bert-base-uncased")),
            length=64,
        ),
        optimizer=Optimizer(learning_rate=3e-4, weight_decay=0.01),
        schedule=Schedule("linear", warmup=50),
        epochs=3,
        batch_size=12,
        evaluate_every=100,
        best_by="accuracy",
    )
