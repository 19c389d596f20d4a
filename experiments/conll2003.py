"""CoNLL-2003: names of persons, places, organisations and others in news, by a BERT of 4 blocks x 256.

Command:  TERCET_DATA=... python -m research train experiments/conll2003.py
          TERCET_DATA=... python -m research train experiments/conll2003.py --init.path runs/mlm_encoder_cased --init.rescale true --out runs/conll_pretrained
          python -m research evaluate runs/conll_pretrained --split test --out scores/conll2003
Cost:     11 minutes, of three epochs, on two cores that were busy with other work too.
Result:   entity F1 on the test split 0.705 [0.691, 0.719] from scratch, 0.693 [0.679, 0.707] from mlm_encoder_cased.py's
          checkpoint (results/pretraining.jsonl; the rates that were tried are in results/conll2003_rates.csv).
Source:   Tjong Kim Sang and De Meulder (2003); cased pieces, for capitals tell names apart (Devlin et al., 2019, section 5.3).
"""

from dataclasses import replace

from experiments.local import source, tokenizer
from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.tagging import Tagging


def config() -> Run:
    """Return the run."""
    return Run(
        name="conll2003",
        arch=replace(preset("bert-mini"), vocab_size=0, max_length=128),
        objective=Tagging(tags="tags"),
        data=Data(sources=(source("conll2003"),), tokenizer=tokenizer("bert-base-cased"), length=64),
        optimizer=Optimizer("muon", learning_rate=2e-3),
        schedule=Schedule("linear", warmup=100),
        epochs=3.0,
        batch_size=12,
        evaluate_every=400,
        save_every=400,
        best_by="f1",
    )
