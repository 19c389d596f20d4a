"""What is refused of a run before any data is read or memory taken."""

from __future__ import annotations

import math
import re
from typing import Any

from research.config.run import Adapter, Run, problem_of
from research.data import cleaning, sources
from research.data.batches import shares
from research.data.corpus import Data
from research.data.tokenizer import promised
from research.models import validate
from research.models.arch import Arch
from research.models.ngram import Ngram
from research.objectives.causal import Causal
from research.types import UserError


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
    if run.optimizer.parameter_scale and run.optimizer.name != "adafactor":
        name = run.optimizer.name
        raise UserError(f"optimizer.parameter_scale is for adafactor, and optimizer.name is {name}: set it to False")
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
    if run.compute.attention == "cudnn" and (reason := unfused(run)):
        raise UserError(f"compute.attention is cudnn, but {reason}, or let compute.attention be auto")
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


def unfused(run: Run) -> str:
    """Return what of `run` cuDNN's attention does not take, and what would do; nothing where it takes all."""
    arch = run.arch
    if not isinstance(arch, Arch):
        return f"a {type(arch).__name__} model has none: choose a transformer"
    if run.compute.dtype != "bfloat16":
        return f"compute.dtype is {run.compute.dtype}, not bfloat16: set it"
    if arch.attention_dropout:
        return f"it does not drop weights, and arch.attention_dropout is {arch.attention_dropout}: set it to 0"
    width = arch.attention_width // arch.heads
    if width % 8 or width > 128:
        return f"heads are {width} wide, no multiple of 8 up to 128: set arch.heads or arch.head_width"
    lengths = run.objective.lengths(run.data.length)
    if odd := [length for length in (lengths.source, lengths.target) if length % 2]:
        return f"data.length {run.data.length} makes sequences of {odd[0]} tokens, an odd number: change it"
    return ""


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
