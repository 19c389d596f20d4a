"""RoBERTa-base by its paper's settings: 125 million parameters, 500,000 steps of 4.2 million tokens.

Command:  python -m research train experiments/roberta_base.py
Devices:  this is for one; for eight, add `--mesh.data 8 --microbatches 32`.
Plan:     124,697,433 parameters, 602 training MFLOPs a token; on one H100 18 GiB and 37 days, on each of eight 18 GiB
          and 4.6 days, at an MFU of 0.4 (`python -m research plan`).
Source:   Liu et al. (2019), "RoBERTa: A Robustly Optimized BERT Pretraining Approach", sections 3.1, 4 and 5 and
          table 9: batches of 8K sequences of 512 tokens, full sentences across documents (4.2), 500,000 steps; Adam at
          6e-4 (0.9, 0.98), epsilon 1e-6, decay 0.01, no clipping, linear after a warm-up of 24,000; dropout 0.1; 15 %
          masked, 80/10/10, masks drawn anew (4.1); byte-level BPE of 50,265. The same stand in the model card of
          FacebookAI/roberta-base, but for clipping and dropout, which fairseq's examples/roberta/config/pretraining/
          base.yaml has (a smaller run: 5e-4, 2,048 sequences, 125,000 steps). fairseq/optim/adam.py decays every
          parameter.
Differs:  rows are packed full and cut at tokens rather than at sentences, so they need not begin with <s>, and a
          document is <s> ... </s> where theirs have an extra </s> between them; of the 160 GB, STORIES is not to be
          had, and C4's news stand for CC-News: English Wikipedia and BookCorpus (16 GB there, here 12 and 4, which the
          paper does not part), OpenWebText (38) and news (76) are mixed by the paper's sizes (3.2); products in
          bfloat16, where theirs were in float16.
"""

from experiments import corpora, local
from research.config import Compute, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.masked import Masked


def config() -> Run:
    """Return the run."""
    return Run(
        name="roberta_base",
        arch=preset("roberta-base"),
        objective=Masked(),
        data=Data(
            sources=(corpora.wikipedia(12), corpora.books(4), corpora.openwebtext(38), corpora.news(76)),
            tokenizer=local.tokenizer("roberta-base"),
            length=512,
        ),
        compute=Compute("bfloat16"),
        optimizer=Optimizer(
            "adamw", learning_rate=6e-4, b1=0.9, b2=0.98, epsilon=1e-6, weight_decay=0.01, no_decay="", clip=0.0
        ),
        schedule=Schedule("linear", warmup=24_000),
        steps=500_000,
        batch_size=8192,
        microbatches=256,
        log_every=10,
        evaluate_every=5000,
        evaluate_rows=4096,
        save_every=1000,
    )
