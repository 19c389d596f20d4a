"""Stories: a pre-trained decoder goes on learning the next token, on the plays of Shakespeare.

Command:  TERCET_DATA=... python -m research train experiments/clm_decoder.py
          TERCET_DATA=... python -m research train experiments/stories_shakespeare.py
          python -m research generate runs/stories_shakespeare --prompt "ROMEO:" --method sample --top-p 0.9
Cost:     11 minutes for 1.1 million tokens on two cores that were busy with other work too.
Result:   validation loss 5.739 -> 3.900, unigram 6.120; 2.25 bits a byte.
Source:   fine-tuning a language model on the text of a domain: Howard and Ruder (2018), section 3.2. The text is split 90/10 in
          order, as nanoGPT does.
"""

from dataclasses import replace

from experiments import clm_decoder
from experiments.local import source
from research.config import Init, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.objectives.causal import Causal


def config() -> Run:
    """Return the run."""
    return Run(
        name="stories_shakespeare",
        arch=replace(clm_decoder.config().arch, dropout=0.1, attention_dropout=0.1),
        init=Init("runs/clm_decoder"),
        objective=Causal(),
        data=Data(
            sources=(source("tinyshakespeare", boundary="blank", holdout=0.1, holdout_by="tail"),),
            length=128,
            cross_documents=True,
        ),
        optimizer=Optimizer(learning_rate=3e-4),
        schedule=Schedule("linear", warmup=50),
        epochs=3.0,
        batch_size=16,
        evaluate_every=200,
        save_every=200,
    )
