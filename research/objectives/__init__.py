"""What is predicted from what: one file an objective, listed here. Importing any of them does not import jax."""

from research.objectives.causal import Causal
from research.objectives.classification import Classification
from research.objectives.completion import Completion
from research.objectives.denoising import Denoising
from research.objectives.masked import Masked
from research.objectives.mixture import Mixture
from research.objectives.prefix import Prefix
from research.objectives.seq2seq import Seq2Seq
from research.objectives.span_corruption import SpanCorruption
from research.objectives.tagging import Tagging

PRETRAINING: dict[str, type] = {
    "masked": Masked,
    "causal": Causal,
    "prefix": Prefix,
    "span_corruption": SpanCorruption,
    "denoising": Denoising,
    "mixture": Mixture,
}
"""Those that make examples of running text."""

TASKS: dict[str, type] = {
    "classification": Classification,
    "tagging": Tagging,
    "seq2seq": Seq2Seq,
    "completion": Completion,
}
"""Those whose examples are records with columns: a text and its label, a source and its target."""

OBJECTIVES: dict[str, type] = PRETRAINING | TASKS
