r"""DialogSum: summaries of conversations, written by an encoder-decoder.

Command:  TERCET_DATA=... python -m research train experiments/span_encoder_decoder.py
          TERCET_DATA=... python -m research train experiments/dialogsum.py
          python -m research evaluate runs/dialogsum --split test --generate --decoding.method beam \
              --decoding.no-repeat-ngram 3 --out scores/dialogsum
Cost:     45 minutes for two epochs in bfloat16 on two cores that were busy with other work too, and 2 to evaluate.
Result:   test perplexity 24.5 (unigram 296; validation loss 7.86 -> 3.05). ROUGE-1, -2, -L of the summaries 0.225, 0.029, 0.183
          (0.282, 0.058, 0.238 against the nearest reference), and a ROUGE-1 of 0.120 where trigrams may come twice.
          They are sentences of the right kind that say hardly anything of the dialogue: what span_encoder_decoder.py's
          checkpoint read (4.5 million tokens) and two epochs do not teach the decoder where to look.
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
