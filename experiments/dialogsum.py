r"""DialogSum: summaries of conversations, written by an encoder-decoder.

Command:  TERCET_DATA=... python -m research train experiments/dialogsum.py
          python -m research evaluate runs/dialogsum --split test --generate --decoding.method beam \
              --decoding.no-repeat-ngram 3 --out scores
Source:   Chen et al. (2021): 12,460 / 500 / 500 dialogues, three references each in the test split (ROUGE is their mean).
"""

from dataclasses import replace

from experiments import span_encoder_decoder
from experiments.local import source
from research.config import Compute, Init, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.objectives.seq2seq import Seq2Seq


def config() -> Run:
    """Return the run."""
    arch = replace(span_encoder_decoder.config().arch, dropout=0.1)
    return Run(
        name="dialogsum",
        arch=arch,
        init=Init("runs/span_encoder_decoder"),
        objective=Seq2Seq(prompt="summarize: {source}", target_length=128),
        data=Data(sources=(source("dialogsum"),), length=512),
        compute=Compute("bfloat16"),
        optimizer=Optimizer(learning_rate=1e-3),
        schedule=Schedule("linear", warmup=100),
        epochs=2.0,
        batch_size=8,
        evaluate_every=400,
        save_every=400,
    )
