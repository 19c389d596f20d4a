"""Update rules and learning-rate schedules: optax's, but for muon's orthogonalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.config import Optimizer, Run, Schedule
from research.models.arch import Arch
from research.train import paths

HIDDEN_MATRIX = r"block_\d+/.*kernel$"  # what muon orthogonalises: never embeddings, heads, norms or biases
MOMENTUM, NEWTON_SCHULZ = 0.95, (3.4445, -4.7750, 2.0315)  # muon's (Jordan et al., 2024)


def learning_rate(schedule: Schedule, peak: float, steps: int) -> Callable[[Any], jax.Array]:
    """Return the learning rate as a function of the updates already applied (0 for the first).

    The first update has peak / warmup, not 0 (`optax.warmup_*` schedules waste it). The falling shapes reach
    `floor` x peak after the last of `steps`. inverse_sqrt is peak x sqrt(warmup / n) at the n-th update (Vaswani et
    al., 2017, section 5.3, rescaled to its peak).
    """
    warmup = min(schedule.warmup, steps) if schedule.warmup > 1 else 0  # a warm-up of one step is none
    rest = max(1, steps - warmup)
    floor = schedule.floor * peak

    if schedule.name == "constant":
        after = optax.constant_schedule(peak)
    elif schedule.name == "linear":
        after = optax.linear_schedule(peak, floor, rest)
    elif schedule.name == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, schedule.floor)
    elif schedule.name == "inverse_sqrt":
        start = max(1, warmup)
        after = lambda count: peak * jnp.sqrt(start / (start + count + 1.0))  # noqa: E731
    elif schedule.name == "staircase":
        begin, width = (1 - schedule.decay) * steps - warmup, schedule.decay * steps / schedule.stairs
        falls = [max(0, round(begin + stair * width)) for stair in range(schedule.stairs)]
        factors = {at: schedule.factor ** falls.count(at) for at in falls}  # stairs of less than a step fall at once
        after = optax.piecewise_constant_schedule(peak, factors)
    else:
        falling = max(1, min(rest, round(schedule.decay * steps)))
        after = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, floor, falling)], [rest - falling]
        )
    if not warmup:
        return after
    if schedule.warmup_shape == "constant":
        return optax.join_schedules([optax.constant_schedule(peak), after], [warmup])
    rising = optax.linear_schedule(peak / warmup, peak, warmup - 1)
    return optax.join_schedules([rising, after], [warmup])


def create(
    config: Optimizer, rate: Callable[[Any], jax.Array], arch: Arch | None = None
) -> optax.GradientTransformation:
    """Return the update: clipping by global norm, the rule's direction, decoupled decay by path, the learning rate.

    With a layer_decay that rate is each layer's own (see `layer_rates`), for which `arch` must be given.

    AdamW: Loshchilov and Hutter (2019); Adafactor: Shazeer and Stern (2018), with absolute steps, or with relative ones
    (section 8) by parameter_scale; Lion: Chen et al. (2023); Muon: Jordan et al. (2024), with updates scaled to an RMS
    of 0.2 (Liu et al., 2025, section 2.2) so that one learning rate serves its matrices and AdamW's other parameters
    alike. Decay stands outside the rules because optax's own aliases disagree on it: `adafactor` adds it after the
    learning rate.
    """
    if config.name == "adamw":
        direction = optax.scale_by_adam(config.b1, config.b2, config.epsilon)
    elif config.name == "lion":
        direction = optax.scale_by_lion(config.b1, config.b2)
    elif config.name == "sgd":
        direction = optax.identity()
    elif config.name == "adafactor":
        relative = [optax.scale_by_param_block_rms()] if config.parameter_scale else []
        direction = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), *relative)
    else:
        orthogonalised = optax.stateless(lambda updates, _: jax.tree.map(orthogonal, updates))
        matrices = optax.chain(optax.trace(MOMENTUM, nesterov=True), orthogonalised)
        others = optax.scale_by_adam(config.b1, config.b2, config.epsilon, nesterov=True)
        direction = optax.partition({"matrices": matrices, "others": others}, _kinds)
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        direction,
        optax.add_decayed_weights(config.weight_decay, lambda tree: _negate(paths.matching(config.no_decay, tree))),
        optax.scale_by_learning_rate(rate),
        optax.stateless(lambda updates, _: layer_rates(config, arch, updates)),
    )


def newest_share(run: Run, step: jax.Array) -> Any:
    """Return the newest parameters' share of their average after the update `step`: float32, or the decay's rest.

    For the plain mean of the last of the steps it is 1, 1/2, 1/3, ...; before those 1, the parameters themselves.
    """
    if run.ema:
        return 1 - run.ema
    begin = run.steps - round(run.average * run.steps)
    return 1.0 / jnp.maximum(step - begin + 1, 1).astype(jnp.float32)


def orthogonal(matrix: jax.Array) -> jax.Array:
    """Return about 0.2 sqrt(max(n, m)) U V^T of a `matrix` = U S V^T, float32[n, m]: of full rank, its RMS is about 0.2.

    Five steps of a quintic Newton-Schulz iteration bring singular values to between 0.7 and 1.2, but for those that are
    less than a hundredth of the norm (Jordan et al., 2024). optax.contrib.muon does the same under a vmap over one
    matrix, for which XLA:CPU takes twice as long.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (jnp.linalg.norm(x) + 1e-8)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return 0.2 * max(matrix.shape) ** 0.5 * (x.T if tall else x)


def layer_rates(config: Optimizer, arch: Arch, updates: Any) -> Any:
    """Return `updates` times layer_decay to the power of the layers above: 0 for the head, 1 for the last block, ...

    Howard and Ruder (2018, section 3.2), who divide by 2.6 a layer; Clark et al. (2020, appendix B), whose code
    multiplies the last block's twice.
    """
    if config.layer_decay == 1:
        return updates
    top = arch.encoder_layers + arch.depth + 1
    return paths.map_named(lambda path, leaf: leaf * config.layer_decay ** (top - paths.layer(arch, path)), updates)


def _kinds(params: Any) -> Any:
    hidden = paths.matching(HIDDEN_MATRIX, params)
    return jax.tree.map(lambda found: "matrices" if found else "others", hidden)


def _negate(mask: Any) -> Any:
    return jax.tree.map(lambda leaf: not leaf, mask)
