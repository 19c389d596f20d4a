"""T5-base by its paper's baseline: 223 million parameters, 2^19 steps of 2^16 tokens, no token twice.

Command:  python -m research train experiments/t5_base.py
Devices:  this is for one; for eight, add `--mesh.data 8 --microbatches 1`.
Plan:     222,903,552 parameters, 750 training MFLOPs a token; on one H100 21 GiB and 0.84 days, on each of eight 11 GiB
          and 0.1 days, at an MFU of 0.4 (`python -m research plan`).
Source:   Raffel et al. (2020), "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
          sections 3.1.1 (dropout 0.1) and 3.1.2: 128 sequences of 512 tokens, 524,288 steps, C4; Adafactor at
          1 / sqrt(max(n, 10,000)), which is 0.01 for 10,000 steps. Section 3.3.4: 15 % of the tokens in spans of 3 on
          average. Its code (google-research/text-to-text-transfer-transformer): 568 tokens making 512 and 114
          (t5/models/gin/objectives/span.gin); steps relative to each parameter's scale, updates clipped at an RMS of 1,
          no first moment, z-loss 1e-4, no label smoothing (t5/models/test_data/operative_config.gin, Mesh TensorFlow's
          defaults: the released model's own file was not to be had); no decay, no clipping by the global norm.
Differs:  the released t5-base was trained for twice as many steps of 16 times as many rows, and on labelled tasks too
          (section 3.7); the baseline's own objective hid single tokens rather than spans; C4's English pages as the hub
          holds them, the first 30 % of them, which is more than these steps read.
"""

from experiments import corpora, local
from research.config import Compute, Loss, Optimizer, Run, Schedule
from research.data.corpus import Data
from research.models import preset
from research.objectives.span_corruption import SpanCorruption


def config() -> Run:
    """Return the run."""
    return Run(
        name="t5_base",
        arch=preset("t5-base"),
        objective=SpanCorruption(density=0.15, mean_span=3.0),
        data=Data(
            sources=(corpora.c4("30%"),),
            tokenizer=local.tokenizer("t5-small"),  # all sizes share one
            length=568,
            framing="none",
        ),
        compute=Compute("bfloat16"),
        optimizer=Optimizer("adafactor", learning_rate=0.01, parameter_scale=True, weight_decay=0.0, clip=0.0),
        schedule=Schedule("inverse_sqrt", warmup=10_000, warmup_shape="constant"),
        loss=Loss(z_loss=1e-4),
        steps=2**19,
        batch_size=128,
        microbatches=4,
        log_every=100,
        evaluate_every=5000,
        evaluate_rows=4096,
        save_every=5000,
    )
