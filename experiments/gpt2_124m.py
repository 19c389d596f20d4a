"""GPT-2, its smallest model, by nanoGPT's settings: 124 million parameters, 600,000 steps of half a million tokens.

Command:  python -m research train experiments/gpt2_124m.py
Devices:  this is for one; for eight, add `--mesh.data 8 --microbatches 5`.
Plan:     124,439,808 parameters, 812 training MFLOPs a token; on one H100 7.3 GiB and 7 days, on each of eight 7.3 GiB
          and 0.88 days, at an MFU of 0.4 (`python -m research plan`).
Source:   Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", section 2: the model, byte-level
          BPE (2.2) of 50,257, 1,024 tokens, residual outputs' initial weights divided by the root of their number; of
          its training only the batch of 512 is published (2.3). The rest is nanoGPT's reproduction
          (github.com/karpathy/nanoGPT, train.py and config/train_gpt2.py): 12 x 40 sequences a batch, 600,000 steps,
          AdamW at 6e-4 (0.9, 0.95), decay 0.1 of matrices and embeddings, clipping at 1, cosine to 6e-5 after a warm-up
          of 2,000, no dropout, bfloat16; OpenWebText with 0.05 % of its documents held out (data/openwebtext/
          prepare.py). It reports a validation loss of about 2.85.
Differs:  biases as GPT-2 has them, and 50,257 rows of the embedding (nanoGPT: none, and 50,304); each row comes once an
          epoch, where nanoGPT draws windows with replacement.
"""

from dataclasses import replace

from experiments import corpora, local
from research.config import Compute, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    return Run(
        name="gpt2_124m",
        arch=replace(preset("gpt2"), dropout=0.0, attention_dropout=0.0),
        objective=Causal(),
        data=Data(sources=(corpora.openwebtext(),), tokenizer=local.tokenizer("gpt2"), length=1024),
        compute=Compute("bfloat16"),
        optimizer=Optimizer("adamw", learning_rate=6e-4, b1=0.9, b2=0.95, epsilon=1e-8, weight_decay=0.1, clip=1.0),
        schedule=Schedule("cosine", warmup=2000, floor=0.1),
        steps=600_000,
        batch_size=480,
        microbatches=40,
        log_every=10,
        evaluate_every=1000,
        evaluate_rows=2048,
        save_every=1000,
    )
