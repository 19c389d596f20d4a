"""SMS spam: which of 5,574 text messages nobody asked for, by a BERT of 4 blocks x 256.

Command:  TERCET_DATA=... python -m research train experiments/sms_spam.py
          TERCET_DATA=... python -m research train experiments/sms_spam.py --init.path runs/mlm_encoder --optimizer.learning-rate 1e-3 --out runs/sms_pretrained
Cost:     6 minutes from scratch, 4 from the checkpoint, on two cores that were busy with other work too.
Result:   F1 of spam on the test split 0.973 [0.952, 0.989] from scratch, 0.969 [0.949, 0.986] from mlm_encoder.py's checkpoint
          (results/pretraining.jsonl; the rates that were tried are in results/sms_spam_rates.csv).
Source:   Almeida et al. (2011). It has no split: a fifth is held out for testing and a tenth for validation, by a hash of the
          record, so that none of its many repeated messages is on two sides.
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
        name="sms_spam",
        arch=replace(preset("bert-mini"), vocab_size=0, max_length=128),
        objective=Classification(),
        data=Data(
            sources=(source("sms_spam", holdout=0.1, holdout_test=0.2),), tokenizer=tokenizer("bert-base-uncased"), length=64
        ),
        optimizer=Optimizer("muon", learning_rate=2e-3),
        schedule=Schedule("linear", warmup=50),
        epochs=4.0,
        batch_size=12,
        evaluate_every=150,
        save_every=150,
        best_by="macro_f1",
    )
