r"""DailyDialog: the next turn of an everyday conversation, written by a decoder whose prompt is the turns before.

Command:  TERCET_DATA=... python -m research train experiments/clm_decoder.py
          TERCET_DATA=... python -m research train experiments/dailydialog.py
          python -m research evaluate runs/dailydialog --split test --generate --limit 500 --decoding.method sample \
              --decoding.top-p 0.9 --out scores/dailydialog
          python -m research generate runs/dailydialog --prompt "Say , Jim , how about going for a few beers after dinner ?"
Cost:     28 minutes for 8.4 million tokens in bfloat16 on two cores that were busy with other work too, and 2 to evaluate.
Result:   test perplexity 25.8 of the replies' tokens (unigram 479, before fine-tuning 1,029 on validation). Of 500 replies
          that it wrote distinct-1 is 0.191 and distinct-2 0.674, where those that people wrote have 0.228 and 0.720; BLEU
          0.4. experiments/results/dailydialog_samples.jsonl holds the first ten: sentences of conversations, few of which
          answer what was said.
Source:   Li et al. (2017): 76,053 / 7,069 / 6,740 replies of 13,118 dialogues; distinct-n as Li et al. (2016).
"""

from dataclasses import replace

from experiments import clm_decoder
from experiments.local import source
from research.config import Compute, Init, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.objectives.completion import Completion


def config() -> Run:
    """Return the run."""
    return Run(
        name="dailydialog",
        arch=replace(clm_decoder.config().arch, dropout=0.1, attention_dropout=0.1),
        init=Init("runs/clm_decoder"),
        objective=Completion(prompt="{source} __eou__", target_length=48),
        data=Data(sources=(source("dailydialog"),), length=192),
        compute=Compute("bfloat16"),
        optimizer=Optimizer(learning_rate=5e-4),
        schedule=Schedule("linear", warmup=100),
        epochs=1.0,
        batch_size=16,
        evaluate_every=500,
        save_every=500,
    )
