r"""BART-base by its paper's settings: 139 million parameters, 500,000 steps of 4.1 million tokens.

Command:  python -m research train experiments/bart_base.py
          python -m research train experiments/bart_base.py --steps 500000 --schedule.floor 0 --arch.dropout 0 \
              --arch.attention-dropout 0 --arch.activation-dropout 0 --allow-changes
Devices:  these are for one, and the second goes on in the first's folder; for eight, add
          `--mesh.data 8 --microbatches 40` to both.
Plan:     139,470,681 parameters, 901 training MFLOPs a token; on one H100 22 then 11 GiB and 54 days, on each of eight
          18 then 8.7 GiB and 6.7 days, at an MFU of 0.4 (`python -m research plan`).
Source:   Lewis et al. (2020), "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation,
          Translation, and Comprehension", section 5.1: 8,000 sequences a batch, 500,000 steps, RoBERTa's text, GPT-2's
          byte-level BPE; text infilling of 30 % of the tokens by spans whose lengths are Poisson(3) (section 2.2), and
          all sentences permuted; no dropout in the last tenth of the steps. It gives these for BART-large, and 6 + 6
          blocks of width 768 as the base model (sections 2.1 and 4), which its comparisons train for a million steps on
          books and Wikipedia (4.1). The rates of dropout are those of the released facebook/bart-base (config.json):
          0.1 throughout.
Differs:  the optimizer and the length of rows are not published: RoBERTa-base's (Liu et al., 2019, table 9), as the
          paper took its batch and its steps "following" RoBERTa; how the released base model was trained is not
          published either (facebookresearch/fairseq, issues 1899 and 2303, ask in vain); text as in `roberta_base.py`;
          rows are packed full, and a document goes on in the next row;
          attention and permutation stay within a document; the logits' bias is trained; products in bfloat16, where
          theirs were in float16.
"""

from dataclasses import replace

from experiments import local, roberta_base
from research.config import Run, Schedule
from research.models import preset
from research.objectives.denoising import Denoising

STEPS, WARMUP = 500_000, 24_000
DROPPING = 450_000  # steps with dropout


def config() -> Run:
    """Return the run with dropout; its learning rate falls to where the rest goes on."""
    run = roberta_base.config()
    tokenizer = local.tokenizer("roberta-base")  # facebook/bart-base's, piece for piece
    return replace(
        run,
        name="bart_base",
        arch=preset("bart-base"),
        objective=Denoising(mask_share=0.3, mean_span=3.0, permute_sentences=True),
        data=replace(run.data, tokenizer=tokenizer, length=512, cross_documents=False),
        schedule=Schedule("linear", warmup=WARMUP, floor=(STEPS - DROPPING) / (STEPS - WARMUP)),
        steps=DROPPING,
        batch_size=8000,
        microbatches=250,
    )
