"""A run as one frozen value: what is trained, on what, how, for how long."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field
from typing import Literal

from research.data.corpus import Data
from research.models import ARCHITECTURES
from research.objectives import OBJECTIVES, TASKS

AnyArch = functools.reduce(operator.or_, ARCHITECTURES.values())
AnyObjective = functools.reduce(operator.or_, OBJECTIVES.values())
UNIONS = {AnyArch: ("model", ARCHITECTURES), AnyObjective: ("name", OBJECTIVES)}
"""Fields of one of several classes: which key of their JSON names the class, and the classes by name."""


@dataclass(frozen=True)
class Init:
    """What the parameters start from."""

    path: str = ""
    """A run's folder, a folder in Hugging Face's layout, or a hub id: the shape of the model (of `arch`, all but the
    dropout rates) and, unless data.tokenizer.path names another, the tokenizer come from there. Of a run it is the best
    checkpoint, by its evaluations, or the latest where there were none. Empty: fresh ones."""
    positions: Literal["keep", "resize"] = "keep"
    """Learned positions as they are there, longer rows being refused; or cut to arch.max_length, or continued to it by
    repeating them."""
    rescale: bool = False
    """Begin with tables of embeddings as large as fresh ones, and the same function of them (BERT and RoBERTa, whose
    norms make up for it): AdamW moves every element alike, so what grew in pre-training learns more slowly."""


@dataclass(frozen=True)
class Optimizer:
    """The update rule, its peak learning rate, and what it leaves undecayed."""

    name: Literal["adamw", "adafactor", "lion", "muon", "sgd"] = "adamw"
    """Update rule; sgd has no momentum; muon takes the hidden matrices, scaled to adamw's step size, and leaves the rest to Nesterov adamw."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up."""
    b1: float = 0.9
    """Decay of the first moment (adamw, lion); muon's momentum is 0.95 as published."""
    b2: float = 0.999
    """Decay of the second moment (adamw, lion)."""
    epsilon: float = 1e-8
    """Added to the root of the second moment (adamw)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, times the learning rate."""
    parameter_scale: bool = False
    """adafactor: multiply each parameter's update by its root mean square, or 0.001 where that is less, so that the
    learning rate is relative, as T5's (Shazeer and Stern, 2018, section 8)."""
    no_decay: str = r"(bias|scale)$|relative/"
    """Parameters whose path matches this regular expression are not decayed."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0: no clipping."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a share of that of the layer above it: the head has all of it, then come the blocks
    from the top, and the embeddings last (discriminative fine-tuning; Howard and Ruder, 2018, section 3.2)."""


@dataclass(frozen=True)
class Adapter:
    """Which parameters are trained: all of them, all but the frozen ones, or small matrices beside the frozen ones.

    Layers from the bottom are embeddings, blocks, head; of an encoder-decoder the encoder's blocks, then the decoder's.
    """

    method: Literal["full", "freeze", "lora"] = "full"
    """Train everything; leave out what `frozen` and `lowest` name; or train low-rank updates of the kernels that
    `targets` names (LoRA; Hu et al., 2022), with what `whole` names."""
    frozen: str = ""
    """freeze: parameters whose path matches this regular expression are not trained: ^tokens/|/(positions|types)/ are
    the embeddings, ^(?!head/|pooler/|classifier/) is all but the head."""
    lowest: int = 0
    """freeze: the embeddings and this many blocks from the bottom are not trained either; 0: no more than `frozen`."""
    rank: int = 8
    """lora: rank of each update."""
    alpha: float = 16.0
    """lora: updates are multiplied by alpha / rank."""
    targets: str = r"self_attention/(query|value)/kernel$"
    """lora: kernels whose path matches this regular expression are updated."""
    dropout: float = 0.0
    """lora: rate on what enters the update, not on what enters the kernel."""
    whole: str = r"^(classifier|pooler)/"
    """lora: parameters whose path matches this regular expression are trained besides, themselves: a new head."""
    unfreeze_every: int = 0
    """Steps after which the next lower layer is trained too, the head alone at first (gradual unfreezing; Howard and
    Ruder, 2018, section 3.3); 0: all from the first step. Layers whose turn has not come stay bitwise as they are, but
    have optimizer state."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the run's steps."""

    name: Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd", "staircase"] = "cosine"
    """Shape after the warm-up; wsd is warmup-stable-decay, staircase falls in `stairs` equal steps instead of evenly."""
    warmup: int = 100
    """Steps of warm-up; where that is linear, the first update already has 1/warmup of the peak."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """Rise evenly to the peak, or stay at it throughout: T5's 1 / sqrt(max(n, warmup)), with inverse_sqrt."""
    decay: float = 0.2
    """Share of all steps that wsd and staircase spend falling."""
    floor: float = 0.0
    """Last learning rate as a share of the peak (linear, cosine, wsd)."""
    stairs: int = 1
    """staircase: how many times the learning rate falls, each for as many steps."""
    factor: float = 0.5
    """staircase: what the learning rate is multiplied by each time it falls."""


@dataclass(frozen=True)
class Loss:
    """What is added to the negative log-likelihood in training; evaluation reports the bare one."""

    label_smoothing: float = 0.0
    """Share of the target probability spread over the whole vocabulary."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps logits from drifting (1e-4 in PaLM)."""


@dataclass(frozen=True)
class Compute:
    """How the step is computed; nothing here changes what is learned beyond rounding."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, and sums over positions and rows, stay float32. bfloat16 is
    the faster on GPUs, TPUs and CPUs with AMX."""
    remat: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """What computes attention: XLA's products, or cuDNN's fused kernel, which keeps no scores; auto: the kernel where it
    can. It needs an NVIDIA GPU of compute capability 8.0, bfloat16, arch.attention_dropout 0 and even lengths."""


@dataclass(frozen=True)
class Mesh:
    """How many ways each thing is split over devices; the product is the number of devices used."""

    data: int = 0
    """Rows of a batch; 0: all devices that the other two leave."""
    fsdp: int = 1
    """Rows of a batch, and parameters with their optimizer state."""
    tensor: int = 1
    """Heads, feed-forward width and vocabulary."""


@dataclass(frozen=True)
class Run:
    """One training run; the whole of it is a function of this value."""

    name: str
    """What the run is called in logs and tables."""
    arch: AnyArch
    """Shape of the model."""
    objective: AnyObjective
    """What is predicted from what."""
    data: Data = field(default_factory=Data)
    """Text, tokenizer and rows."""
    seed: int = 0
    """Names every random stream: weights, order, corruption, dropout."""
    init: Init = Init()
    """What the parameters start from."""
    adapter: Adapter = Adapter()
    """Which parameters are trained."""
    optimizer: Optimizer = Optimizer()
    """The update rule."""
    schedule: Schedule = Schedule()
    """The learning rate over time."""
    loss: Loss = Loss()
    """Regularisers of the loss."""
    compute: Compute = Compute()
    """Precision and rematerialisation."""
    mesh: Mesh = Mesh()
    """Devices: data-parallel, fully sharded, tensor-parallel."""
    steps: int = 0
    """Updates in all; give exactly one of steps, epochs and minutes."""
    epochs: float = 0.0
    """Passes over the training rows, turned into steps before step 0."""
    minutes: float = 0.0
    """Wall-clock limit on the updates alone, turned into steps by a probe before step 0; then only steps count."""
    batch_size: int = 32
    """Rows per update, over all devices and microbatches."""
    microbatches: int = 1
    """Parts that each batch is computed in, to save memory; the update is the same."""
    ema: float = 0.0
    """Decay of an exponential moving average of parameters, used for evaluation; 0: none."""
    average: float = 0.0
    """Share of all steps, the last ones, whose parameters' plain mean is used for evaluation (Polyak and Juditsky, 1992;
    with sgd, averaged SGD); before them it is the parameters themselves. 0: none."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: only before the first and after the last step."""
    evaluate_rows: int = 0
    """Validation rows of each evaluation; 0: all of them."""
    save_every: int = 0
    """Steps between checkpoints; 0: only at the end and when interrupted."""
    keep: int = 2
    """Newest checkpoints kept, besides the best among those evaluated at their step."""
    best_by: str = "loss"
    """Score of the evaluations that tells which is best: the lowest loss or error, the highest accuracy, f1, ..."""
    patience: int = 0
    """Evaluations in a row without a new best, which is saved, after which the run ends; 0: it runs to its last step."""
    tensorboard: bool = False
    """Mirror metrics.jsonl to TensorBoard event files."""


def is_task(run: Run) -> bool:
    """Return whether `run` learns from records with columns rather than from running text."""
    return isinstance(run.objective, tuple(TASKS.values()))


def averages(run: Run) -> bool:
    """Return whether `run` keeps an average of its parameters, which is what is evaluated."""
    return run.ema > 0 or run.average > 0


def problem_of(run: Run) -> str:
    """Return what kind of answer `run` is trained to give: of all objectives but classification, one of several."""
    return getattr(run.objective, "problem", "single_label")
