"""SST-2, the sentiment of sentences from film reviews, by a BERT of 4 blocks x 256.

Command:  TERCET_DATA=... python -m research train experiments/sst2.py
          TERCET_DATA=... python -m research train experiments/sst2.py --init.path runs/mlm_encoder --optimizer.learning-rate 1e-3 --out runs/sst2_pretrained
          python -m research evaluate runs/sst2_pretrained --split test --out scores/sst2
Cost:     4 minutes from scratch, 6 from the checkpoint, for three epochs on two cores that were busy with other work too;
          99.8 % of the positions of the training rows, packed with 2.5 sentences each, are real tokens.
Result:   test accuracy 0.798 [0.779, 0.816] from scratch, 0.811 [0.793, 0.829] from mlm_encoder.py's checkpoint
          (results/pretraining.jsonl; the rates that were tried are in results/sst2_rates.csv).
Source:   Socher et al. (2013): 6,920 / 872 / 1,821 whole sentences. Fine-tuning as Devlin et al. (2019), section 4.1.
"""

from dataclasses import replace

from experiments.local import source, tokenizer
from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.classification import Classification


def config() -> Run:
    """Return the run."""
    return Run(
        name="sst2",
        arch=replace(preset("bert-mini"), vocab_size=0, max_length=128),
        objective=Classification(),
        data=Data(sources=(source("sst2"),), tokenizer=tokenizer("bert-base-uncased"), length=64),
        optimizer=Optimizer("muon", learning_rate=2e-3),
        schedule=Schedule("linear", warmup=100),
        epochs=3.0,
        batch_size=12,  # of about 30 sentences
        evaluate_every=228,
        save_every=228,
        best_by="accuracy",
    )
