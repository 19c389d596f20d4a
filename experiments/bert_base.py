r"""BERT-base, uncased, by its paper's settings: 110 million parameters, one million steps.

Command:  python -m research train experiments/bert_base.py
          python -m research train experiments/bert_base.py --data.length 512 --steps 1000000 --schedule.floor 0 \
              --microbatches 8 --allow-changes
Devices:  these are for one, and the second goes on in the first's folder; for eight, add `--mesh.data 8` to both and
          leave out `--microbatches 8`.
Plan:     109,514,298 parameters, 545 then 589 training MFLOPs a token; on one H100 20 then 18 GiB and 0.7 days, on each
          of eight 3.7 then 17 GiB and 0.087 days, at an MFU of 0.4 (`python -m research plan`).
Source:   Devlin et al. (2019), "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
          section 3.1 (text; 15 % of the tokens masked, 80/10/10) and appendix A.2: 256 sequences a batch, one million
          steps, the first 90 % of 128 tokens and the rest of 512; Adam at 1e-4 (0.9, 0.999), decay 0.01, linear after
          a warm-up of 10,000; dropout 0.1. Its code (google-research/bert, optimization.py): epsilon 1e-6, gradients
          clipped at 1, norms and biases not decayed.
Differs:  no next-sentence prediction, so no pairs, one token type and no pooler (110,106,428 parameters there with both
          heads; the base model without heads is the published 109,482,240); masks drawn anew at each step, where ten
          were drawn beforehand; rows are packed full and need not begin with [CLS]; attention stays within a document;
          Adam corrects the bias of its moments, which theirs left out; the rate falls from the end of the warm-up, and
          theirs from step 0, so that it dropped by 1 % there; today's Wikipedia and the hub's BookCorpus, mixed by the
          paper's numbers of words (2,500 to 800 million); products in bfloat16.
"""

from experiments import corpora, local
from research.config import Compute, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.masked import Masked

STEPS, WARMUP = 1_000_000, 10_000
SHORT = 900_000  # steps of 128 tokens


def config() -> Run:
    """Return the run of short rows; its learning rate falls to where the long ones go on."""
    return Run(
        name="bert_base",
        arch=preset("bert-base-uncased"),
        objective=Masked(),
        data=Data(
            sources=(corpora.wikipedia(weight=2500), corpora.books(weight=800)),
            tokenizer=local.tokenizer("bert-base-uncased"),
            length=128,
            cross_documents=False,
        ),
        compute=Compute("bfloat16"),
        optimizer=Optimizer("adamw", learning_rate=1e-4, b1=0.9, b2=0.999, epsilon=1e-6, weight_decay=0.01, clip=1.0),
        schedule=Schedule("linear", warmup=WARMUP, floor=(STEPS - SHORT) / (STEPS - WARMUP)),
        steps=SHORT,
        batch_size=256,
        log_every=100,
        evaluate_every=10_000,
        evaluate_rows=4096,
        save_every=10_000,
    )
