"""A run as one frozen value: what is trained, on what, how, for how long. JSON both ways, checked before data is read.

Importing this file imports neither jax nor transformers: `train EXPERIMENT --help` must answer at once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import operator
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from research.data import cleaning, sources
from research.data.batches import shares
from research.data.corpus import Data
from research.data.tokenizer import promised
from research.models import ARCHITECTURES, validate
from research.models.arch import Arch
from research.models.ngram import Ngram
from research.objectives import OBJECTIVES, TASKS
from research.objectives.causal import Causal
from research.types import UserError, did_you_mean

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
    """Steps of linear warm-up; the first update already has 1/warmup of the peak."""
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
    """Type of activations and matrix products; parameters, and sums over positions and rows,
    stay float32."""
    remat: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""


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


# --- JSON -------------------------------------------------------------------------------------------------------------


@functools.cache
def _converter():
    """Return the strict cattrs converter: unknown keys are errors, architectures and objectives carry their names."""
    import cattrs
    from cattrs.strategies import configure_tagged_union

    converter = cattrs.Converter(forbid_extra_keys=True)

    def number(value: Any, kind: type) -> Any:
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"{value!r} is not of type {kind.__name__}")
        return kind(value)

    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, number)
    for union, (tag, classes) in UNIONS.items():
        names = {cls: name for name, cls in classes.items()}
        configure_tagged_union(union, converter, tag_name=tag, tag_generator=names.__getitem__)
    return converter


def to_json(run: Run) -> dict[str, Any]:
    """Return `run` as plain JSON values; `from_json` is its inverse."""
    return _converter().unstructure(run, unstructure_as=Run)


def from_json(values: dict[str, Any]) -> Run:
    """Return the run that `values` describe.

    Raises:
        UserError: A key is unknown (the nearest is suggested) or a value has the wrong type; names the field.
    """
    _refuse_unknown(values, Run, "")
    try:
        return _converter().structure(values, Run)
    except Exception as error:  # cattrs nests one exception group per level
        from cattrs import transform_error

        raise UserError("configuration: " + "; ".join(transform_error(error))) from None


def _refuse_unknown(values: Any, cls: type, path: str) -> None:
    """Raise a UserError naming the nearest field for the first key of `values` that `cls` lacks."""
    import typing

    if cls in UNIONS and isinstance(values, dict):
        tag, classes = UNIONS[cls]
        name = values.get(tag)
        if name not in classes:
            raise UserError(f"configuration: {path}{tag} is {name!r}, not one of {', '.join(classes)}")
        values, cls = {k: v for k, v in values.items() if k != tag}, classes[name]
    if not (dataclasses.is_dataclass(cls) and isinstance(values, dict)):
        return
    types = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in types:
            raise UserError(f"configuration: unknown field {path}{key}{did_you_mean(key, types)}")
        _refuse_unknown(value, types[key], f"{path}{key}.")


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return {dotted path: leaf} of nested JSON values, the form in which two configurations are compared."""
    if isinstance(values, dict | list) and values:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {k: v for name, value in items for k, v in flatten(value, f"{path}.{name}" if path else name).items()}
    return {str(path): values}


def differences(old: Run, new: Run) -> list[str]:
    """Return one 'field: old -> new' a difference between two runs, empty where they are the same."""
    a, b = flatten(to_json(old)), flatten(to_json(new))
    return [f"{k}: {a.get(k, 'absent')} -> {b.get(k, 'absent')}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


# --- experiments ------------------------------------------------------------------------------------------------------


def load_experiment(path: str) -> Run:
    """Return what `config()` of the Python file at `path` returns.

    Raises:
        UserError: There is no such file, it fails to run, or it has no `config() -> Run`.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else pathlib.Path("experiments")
        hint = did_you_mean(str(file), [str(f) for f in sorted(folder.glob("*.py"))])
        raise UserError(f"no experiment file at {path}{hint}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: an experiment is a .py file with config() -> Run")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        run = module.config()
    except UserError:
        raise
    except Exception as error:
        line = next((f":{t.tb_lineno}" for t in _frames(error) if t.tb_frame.f_code.co_filename == str(file)), "")
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(run, Run):
        raise UserError(f"{path}: config() returned {type(run).__name__}, but must return a research.config.Run")
    return run


def _frames(error: BaseException):
    """Yield the traceback entries of `error`, innermost first."""
    entries, entry = [], error.__traceback__
    while entry:
        entries.append(entry)
        entry = entry.tb_next
    yield from reversed(entries)


# --- checks -----------------------------------------------------------------------------------------------------------


def check(run: Run, resolved: bool = False) -> None:
    """Refuse a run that cannot work, before any data is read or memory taken.

    Where it starts from a checkpoint the shape of the model is not known until that is `resolved`.

    Raises:
        UserError: One line naming the field, what is wrong with it and what to do.
    """
    limits = [(name, getattr(run, name)) for name in ("steps", "epochs", "minutes")]
    for name, value in limits:
        if value < 0 or not math.isfinite(value):
            raise UserError(f"{name} is {value}: it must be above 0")
    given = [name for name, value in limits if value]
    if isinstance(run.arch, Ngram):
        if given:
            raise UserError(f"{' and '.join(given)} given, but an n-gram model is counted in one pass: leave it 0")
    elif len(given) != 1:
        raise UserError(
            f"{' and '.join(given)} are given: keep one of them and set the rest to 0"
            if given
            else "steps is 0, and so are epochs and minutes: give one of them, for example --steps 1000"
        )
    _positive(run, "batch_size", "microbatches", "log_every", "keep")
    _positive(run.optimizer, "learning_rate", of="optimizer.")
    _not_negative(run, "evaluate_every", "evaluate_rows", "save_every", "seed", "patience")
    _not_negative(run.optimizer, "weight_decay", "clip", "epsilon", of="optimizer.")
    _not_negative(run.schedule, "warmup", "floor", of="schedule.")
    if not 0 < run.optimizer.layer_decay <= 1:
        raise UserError(f"optimizer.layer_decay is {run.optimizer.layer_decay}: it must be above 0 and at most 1")
    _check_adapter(run.adapter)
    _not_negative(run.loss, "z_loss", of="loss.")
    if run.seed >= 2**32:
        raise UserError(f"seed is {run.seed}: it must be below 2**32")
    _share(run, "ema", "average")
    if run.ema and run.average:
        raise UserError("ema and average both name the parameters that are evaluated: keep one and set the other to 0")
    _share(run.optimizer, "b1", "b2", of="optimizer.")
    _share(run.loss, "label_smoothing", of="loss.")
    _share(run.schedule, "decay", of="schedule.")
    _positive(run.schedule, "stairs", "factor", of="schedule.")
    if run.patience and not run.evaluate_every:
        raise UserError("patience counts evaluations, and there are none on the way: set evaluate_every")
    if not run.name:
        raise UserError("name is empty: call the run something")
    if run.init.rescale and not run.init.path:
        raise UserError("init.rescale is for embeddings that were trained, and init.path is empty: set it, or leave rescale")
    check_data(run.data)
    if run.batch_size % run.microbatches:
        raise UserError(f"batch_size {run.batch_size} does not divide into microbatches {run.microbatches}")
    _regular(run.optimizer, "no_decay", of="optimizer.")
    if run.init.path and not isinstance(run.arch, Arch):
        raise UserError(f"init.path is for transformers, and arch is {type(run.arch).__name__}: leave it out")
    if resolved or not run.init.path:
        _check_shape(run)


def _check_adapter(adapter: Adapter) -> None:
    """Refuse fields that cannot work with any model; which paths they match is seen once those are known."""
    _positive(adapter, "rank", "alpha", of="adapter.")
    _not_negative(adapter, "lowest", "unfreeze_every", of="adapter.")
    _share(adapter, "dropout", of="adapter.")
    _regular(adapter, "frozen", "targets", "whole", of="adapter.")
    if adapter.method == "freeze" and not (adapter.frozen or adapter.lowest):
        raise UserError(
            "adapter.method is freeze, but adapter.frozen is empty and adapter.lowest is 0: set one of them, or "
            "adapter.method to full"
        )


def _check_rescale(arch: Arch) -> None:
    tied = arch.head == "vocabulary" and arch.tied
    if not arch.embedding_norm or (tied and not arch.head_transform):
        raise UserError(
            f"init.rescale is for BERT and RoBERTa, and {arch.family} has no norms that make up for it: leave it out"
        )


def _check_shape(run: Run) -> None:
    """Refuse a model, an objective and rows that do not go together."""
    validate(run.arch)
    if not isinstance(run.arch, Arch):
        _check_ladder(run)
    elif run.init.rescale:
        _check_rescale(run.arch)
    problem = problem_of(run)
    if problem != "single_label" and (run.loss.label_smoothing or run.loss.z_loss):
        raise UserError(f"loss.label_smoothing and loss.z_loss are for one of several, not for {problem}: set them to 0")
    run.objective.check(run.data.length, None if run.data.tokenizer.path else promised(run.data.tokenizer))
    structures = run.objective.structures
    if run.arch.structure not in structures:
        raise UserError(
            f"objective {type(run.objective).__name__} is for the structure {' or '.join(structures)}, but "
            f"arch.structure is {run.arch.structure}: choose an arch of that structure, or another objective"
        )
    if run.arch.positions == "learned":
        lengths = run.objective.lengths(run.data.length)
        longest = max(lengths.source, lengths.target)
        if longest > run.arch.max_length:
            raise UserError(
                f"data.length {run.data.length} makes sequences of {longest} tokens, but arch.max_length is "
                f"{run.arch.max_length}: lower the one or raise the other"
                + (" (with --init.positions resize)" if run.init.path else "")
            )


def _check_ladder(run: Run) -> None:
    """Refuse what recurrent, feed-forward and n-gram models cannot do."""
    name = type(run.arch).__name__
    if not isinstance(run.objective, Causal):
        raise UserError(f"a {name} model reads from left to right: objective must be Causal()")
    if not run.data.cross_documents:
        raise UserError(f"a {name} model carries what it read over to the next document: set data.cross_documents")
    if isinstance(run.arch, Ngram) and len(run.data.sources) > 1:
        raise UserError(f"an Ngram model is of one source, and data.sources names {len(run.data.sources)}: keep one")
    if run.compute.remat:
        raise UserError(f"compute.remat is for transformers, and arch is {name}: set it to False")
    if run.adapter.method == "lora":
        raise UserError(f"adapter.method lora is for transformers, and arch is {name}: use full or freeze")


def check_data(data: Data) -> None:
    """Refuse data whose fields cannot work; no text is read.

    Raises:
        UserError: A source, a cleaning step, a mixture's weights, or a tokenizer to be trained with too few ids.
    """
    if not data.sources:
        raise UserError("no source of text: give --data.sources at least one")
    for source in data.sources:
        sources.check(source)
    cleaning.check(data.cleaning)
    shares([source.weight for source in data.sources], data.temperature)
    if len(data.sources) > 1 and data.order == "stream":
        raise UserError(f"data.order stream reads one source, not {len(data.sources)}: use shuffled")
    _positive(data, "length", of="data.")
    _positive(data.tokenizer, "sample", of="data.tokenizer.")
    _not_negative(data.tokenizer, "sentinels", of="data.tokenizer.")
    wanted = data.tokenizer.sentinels + 6  # pad, unk, bos, eos, mask and one piece of text
    if not data.tokenizer.path and data.tokenizer.size < wanted:
        raise UserError(
            f"data.tokenizer.size is {data.tokenizer.size}, too few for its special tokens and "
            f"{data.tokenizer.sentinels} sentinels: make it {wanted} or more, or lower data.tokenizer.sentinels"
        )


def _positive(part: Any, *names: str, of: str = "") -> None:
    for name in names:
        value = getattr(part, name)
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{of}{name} is {value}: it must be above 0")


def _not_negative(part: Any, *names: str, of: str = "") -> None:
    for name in names:
        value = getattr(part, name)
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{of}{name} is {value}: it must not be negative")


def _regular(part: Any, *names: str, of: str = "") -> None:
    for name in names:
        try:
            re.compile(getattr(part, name))
        except re.error as error:
            raise UserError(f"{of}{name} is not a regular expression: {error}") from None


def _share(part: Any, *names: str, of: str = "") -> None:
    for name in names:
        value = getattr(part, name)
        if not 0 <= value < 1:
            raise UserError(f"{of}{name} is {value}: it must be at least 0 and below 1")
