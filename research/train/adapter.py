"""Training in whole or in part: which parameters are trained, which are frozen, and the model that both make.

Full fine-tuning, freezing and LoRA are one concept: `split` the parameters in two, differentiate the first part alone,
`merge` both for whatever comes after training.

Floating-point operations of a step beside those of full training, counted by XLA for a classifier of 4 blocks x 256 and
8 rows of 128 tokens: 0.34 for the head alone, 0.65 with the lowest two blocks frozen, 0.68 for LoRA of rank 8 on
queries and values, 0.72 on every kernel (the gradients of kernels, a third of all, are not computed), and 1.00 for
gradual unfreezing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.config import Adapter, Run
from research.models import lora
from research.models.arch import Arch
from research.models.paths import flatten, unflatten
from research.train import optimizer
from research.train.paths import layer
from research.types import State, UserError

OUTPUTS = ("head/kernel", "classifier/kernel")  # [V, D] and fused with the loss: no projections of a Dense
RANDOM = "init.path is empty, so what is frozen stays as random as it is: name a model to start from with --init.path"


class Plan(NamedTuple):
    """What an adapter makes of the parameters at these paths."""

    trained: frozenset[str]  # themselves
    targets: tuple[str, ...]  # kernels that stay frozen, with a low-rank update beside each


def plan(adapter: Adapter, arch: Arch, paths: Iterable[str]) -> Plan:
    """Return which of the parameters at `paths`, all of those of `arch`, are trained, and which are updated beside.

    Raises:
        UserError: A regular expression of the adapter matches nothing, or all there is, or what cannot be updated.
    """
    paths = tuple(paths)
    if adapter.method == "full":
        return Plan(frozenset(paths), ())
    if adapter.method == "freeze":
        return Plan(_left(adapter, arch, paths), ())
    whole = _matching("whole", adapter.whole, paths, required=adapter.whole != Adapter.whole)
    targets = [path for path in _matching("targets", adapter.targets, paths) if path not in whole]
    for path in targets:
        if not path.endswith("/kernel") or path in OUTPUTS:
            raise UserError(
                f"adapter.targets {adapter.targets!r} matches {path}, which is no kernel inside the model: name those "
                "alone, such as (query|value|up|down)/kernel$, and what is to be trained in full with adapter.whole"
            )
    return Plan(frozenset(whole), tuple(targets))


def _left(adapter: Adapter, arch: Arch, paths: tuple[str, ...]) -> frozenset[str]:
    """Return the paths that freezing leaves to be trained."""
    blocks = arch.encoder_layers + arch.depth
    if adapter.lowest > blocks:
        raise UserError(f"adapter.lowest is {adapter.lowest}, but the model has {blocks} blocks: lower it")
    frozen = set(_matching("frozen", adapter.frozen, paths))
    if adapter.lowest:
        frozen |= {path for path in paths if layer(arch, path) <= adapter.lowest}
    if len(frozen) == len(paths):
        raise UserError(
            f"adapter.frozen {adapter.frozen!r} and adapter.lowest {adapter.lowest} freeze every parameter: nothing is "
            "left to train, so let the one match less or lower the other"
        )
    return frozenset(paths) - frozen


def _matching(field: str, pattern: str, paths: tuple[str, ...], required: bool = True) -> list[str]:
    """Return the paths that `pattern` matches; an empty one matches nothing."""
    found = [path for path in paths if pattern and re.search(pattern, path)]
    if required and pattern and not found:
        raise UserError(f"adapter.{field} {pattern!r} matches no parameter: paths are such as {paths[len(paths) // 2]}")
    return found


def split(adapter: Adapter, arch: Arch, params: Any, key: jax.Array) -> tuple[Any, Any]:
    """Return the parameters that are trained and those that are not, both nested; traceable.

    Args:
        adapter: Which those are.
        arch: Of the model.
        params: All its parameters, nested, below "params".
        key: For the low-rank updates (see `lora.initial`), which are trained and lie beside their kernels' places.

    Raises:
        UserError: As `plan`.
    """
    leaves = flatten(params)
    chosen = plan(adapter, arch, leaves)
    trained = {path: leaf for path, leaf in leaves.items() if path in chosen.trained}
    if chosen.targets:
        trained |= lora.initial({path: leaves[path].shape for path in chosen.targets}, adapter.rank, key)
    return unflatten(trained), unflatten({path: leaf for path, leaf in leaves.items() if path not in chosen.trained})


def join(trainable: Any, frozen: Any) -> Any:
    """Return both parts as one nested dict, low-rank updates beside their kernels: what training computes with."""
    return unflatten(flatten(trainable) | flatten(frozen)) if frozen else trainable


def merge(adapter: Adapter, trainable: Any, frozen: Any) -> Any:
    """Return the plain parameters of the model, low-rank updates added to their kernels; traceable."""
    if adapter.method != "lora":
        return join(trainable, frozen)
    return unflatten(lora.folded(flatten(join(trainable, frozen)), scale(adapter)))


def scale(adapter: Adapter) -> float:
    """Return what low-rank updates are multiplied by."""
    return adapter.alpha / adapter.rank


def summary(run: Run, parameters: Any, shapes: State) -> str:
    """Return how much of a model is trained, and what its optimizer keeps beside what it would for all, in one line.

    A second one warns where what is frozen was never trained.

    Args:
        run: Resolved.
        parameters: The model's own, nested, of which shapes are enough.
        shapes: Of the state that is trained.
    """
    rule = optimizer.create(run.optimizer, lambda step: 0.0, run.arch)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6  # noqa: E731
    trained, everything = count(shapes.trainable), count(parameters)
    own, full = size(shapes.opt_state), size(jax.eval_shape(rule.init, parameters))
    return (
        f"training {trained:,} parameters beside {count(shapes.frozen):,} frozen ones ({trained / everything:.2%} of "
        f"{everything:,}); optimizer state {own:,.2f} MB, {full:,.2f} MB were all trained"
    ) + ("" if run.init.path else f"\nwarning: {RANDOM}")


def where(opened: Mapping[str, jax.Array], then: Any, otherwise: Any) -> Any:
    """Return `then` with the leaves that are not open yet replaced by those of `otherwise`, nested or a number.

    Args:
        opened: bool[] of each path; empty: all are open.
        then: Float arrays.
        otherwise: What stands in their place.
    """
    if not opened:
        return then
    others = flatten(otherwise) if isinstance(otherwise, Mapping) else dict.fromkeys(opened, otherwise)
    return unflatten({path: jnp.where(opened[path], leaf, others[path]) for path, leaf in flatten(then).items()})


def clip(largest: float, opened: Mapping[str, jax.Array], gradients: Any, norm: jax.Array, every: jax.Array) -> Any:
    """Return `gradients` as moments should meet them: those of open leaves clipped by their own `norm`, those of the
    rest, which update nothing yet, by the norm of `every` one, as if all were trained.

    So the moments of a leaf that opens are those of a run that trained it from the first step. From zero moments AdamW
    would begin with steps (1 - b1) / sqrt(1 - b2) times too large, 3.2 with the published numbers, because its bias
    correction counts the steps of the run. Gradients of what is not open are computed for it: time is not saved.
    """
    if not largest:
        return gradients
    own, all_ = (jnp.minimum(1.0, largest / jnp.maximum(found, 1e-30)) for found in (norm, every))
    leaves = flatten(gradients)
    return unflatten({path: leaf * jnp.where(opened[path], own, all_) for path, leaf in leaves.items()})


def opens(adapter: Adapter, arch: Arch, paths: Iterable[str]) -> Mapping[str, int]:
    """Return the step from which each of the trained `paths` is updated: the topmost layer that is trained from step 0,
    and `unfreeze_every` steps later the next one that has any of them."""
    layers = {path: layer(arch, path) for path in paths}
    order = sorted(set(layers.values()), reverse=True)
    return {path: adapter.unfreeze_every * order.index(found) for path, found in layers.items()}
