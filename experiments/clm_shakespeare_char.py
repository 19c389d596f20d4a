"""nanoGPT's character-level Shakespeare on a CPU: 4 blocks, 4 heads, width 128, context 64, batch 12, 2,000 steps.

Command:  TERCET_DATA=FOLDER python -m research train experiments/clm_shakespeare_char.py
          (FOLDER/tinyshakespeare/all.txt is the text; --data.sources.0.path FILE reads any other)
Cost:     six minutes on two cores that were busy with other work too.
Result:   validation loss 1.889 after 2,000 steps (published: 1.88); unigram 3.347.
Source:   github.com/karpathy/nanoGPT, README, "I only have a macbook": validation loss 1.88.
Differs:  the vocabulary has 5 special tokens beside the 65 characters, none of which the text holds; validation reads
          the whole last tenth of the text once, where nanoGPT samples 20 batches; biases stay.
"""

from dataclasses import replace

from experiments.local import source
from research.config import Optimizer, Run, Schedule
from research.data.corpus import Data
from research.data.tokenizer import Tokenizer
from research.models import preset
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    gpt2 = replace(preset("gpt2"), vocab_size=0, width=128, layers=4, heads=4, mlp_width=512, max_length=64)
    return Run(
        name="clm_shakespeare_char",
        arch=replace(gpt2, dropout=0.0, attention_dropout=0.0),
        objective=Causal(),
        data=Data(
            sources=(source("tinyshakespeare/all.txt", boundary="file", holdout=0.1, holdout_by="tail"),),
            tokenizer=Tokenizer(kind="character", sentinels=0),
            length=64,
            framing="none",
        ),
        optimizer=Optimizer(learning_rate=1e-3, b2=0.99, weight_decay=0.1),
        schedule=Schedule("cosine", warmup=100, floor=0.1),
        steps=2000,
        batch_size=12,
        evaluate_every=500,
        save_every=500,
        log_every=50,
    )
