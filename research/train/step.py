"""One update as a pure function: (state, rows) -> (state, metrics), jit-compiled over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research.config import Loss, Run
from research.keys import key
from research.models.arch import Arch
from research.models.heads import output_projection
from research.models.paths import flatten, unflatten
from research.models.transformer import Transformer, initial_parameters
from research.train import optimizer, sharding
from research.train.loss import Sums, label_loss, vocabulary_loss
from research.types import Example, Record, State, Vocabulary


class Trainer(NamedTuple):
    """What a run compiles: a model and three jitted functions over one mesh."""

    model: Transformer
    mesh: jax.sharding.Mesh
    shapes: State  # jax.ShapeDtypeStruct leaves with shardings: what a checkpoint is restored into
    initialize: Callable[..., State]  # of {path: array} of parameters to start from; what is not among them is fresh
    update: Callable[[State, Record], tuple[State, dict[str, jax.Array]]]  # donates the state
    place: Callable[[Record], Record]  # host rows -> the mesh


def trainer(run: Run, vocabulary: Vocabulary, mesh: jax.sharding.Mesh) -> Trainer:
    """Return the compiled parts of `run`, whose arch, steps and dropout_bits are resolved (see `session.open_session`)."""
    sharding.check_batch(run.batch_size, run.microbatches, mesh)
    model = create_model(run)
    rate = optimizer.learning_rate(run.schedule, run.optimizer.learning_rate, run.steps)
    rule = optimizer.create(run.optimizer, rate)

    def initialize(given: dict[str, jax.Array] | None = None) -> State:
        params = unflatten(flatten(initial_parameters(run.arch, key(run.seed, "init"))) | (given or {}))
        averages = jax.tree.map(jnp.copy, params) if run.ema else ()
        return State(jnp.zeros((), jnp.int32), params, {}, rule.init(params), averages)

    shapes = jax.eval_shape(initialize)
    placed = sharding.shardings(shapes, mesh)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed)
    rows = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)

    def update(state: State, record: Record) -> tuple[State, dict[str, jax.Array]]:
        sums, gradients = gradient_sums(run, model, vocabulary, mesh, state.trainable, state.step, record)
        scale = 1.0 / jnp.maximum(sums.weight, 1e-8)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)

        def apply(state: State) -> State:
            updates, opt_state = rule.update(gradients, state.opt_state, state.trainable)
            params = optax.apply_updates(state.trainable, updates)
            averages = state.averages
            if run.ema:
                averages = optax.incremental_update(params, averages, 1 - run.ema)
            return State(state.step + 1, params, state.frozen, opt_state, averages)

        metrics = {
            "loss": sums.nll * scale,
            "accuracy": sums.correct * scale,
            "learning_rate": rate(state.step),
            "gradient_norm": norm,
            "finite": finite,
        }
        if run.loss.label_smoothing or run.loss.z_loss:
            metrics["regularized_loss"] = sums.total * scale
        return jax.lax.cond(finite, apply, lambda state: state, state), metrics

    return Trainer(
        model=model,
        mesh=mesh,
        shapes=shapes,
        initialize=jax.jit(initialize, out_shardings=placed, donate_argnums=0),
        update=jax.jit(update, in_shardings=(placed, rows), out_shardings=(placed, whole), donate_argnums=0),
        place=lambda record: jax.device_put(record, rows),
    )


def create_model(run: Run) -> Transformer:
    """Return the Linen module of `run`, computing in its dtype."""
    return Transformer(run.arch, dtype=jnp.dtype(run.compute.dtype), remat=run.compute.remat)


def examples(run: Run, vocabulary: Vocabulary, stream_keys: jax.Array, record: Record) -> Example:
    """Return the batched example that run.objective makes of each row with the key beside it."""
    rows = {name: value for name, value in record.items() if name != "bytes"}
    return jax.vmap(lambda k, row: run.objective(k, row, vocabulary))(stream_keys, rows)


def gradient_sums(
    run: Run, model: Transformer, vocabulary: Vocabulary, mesh: jax.sharding.Mesh, params: Any, step: jax.Array, record: Record
) -> tuple[Sums, Any]:
    """Return the loss sums of one batch and the gradient of their total: sums, divided by the weight only once.

    Means of microbatches would be wrong whenever they score different token counts (which is what
    `optax.MultiSteps` averages). Corruption is keyed by the row's place in the whole batch, so it is the same for any
    number of microbatches or devices.
    """
    row = jnp.arange(run.batch_size)
    keys = jax.vmap(lambda r: key(run.seed, "corruption", step, r))(row)
    example = examples(run, vocabulary, keys, record)

    def total(params: Any, example: Example, dropout: jax.Array) -> tuple[jax.Array, Sums]:
        whole = sharding.gathered(params, mesh)
        sums = loss_sums(run, model, whole, example, run.loss, mesh, dropout if dropping(run.arch) else None)
        return sums.total, sums

    gradient = jax.grad(total, has_aux=True)
    if run.microbatches == 1:
        gradients, sums = gradient(params, example, dropout_key(run, step, 0))
        return sums, gradients

    # Strided, so that each device's rows stay on it: row r goes to microbatch r % M.
    parts = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(x.shape[0] // run.microbatches, run.microbatches, *x.shape[1:]), 0, 1), example
    )

    def add(carry: Any, part: tuple[jax.Array, Example]) -> tuple[Any, None]:
        index, example = part
        gradients, sums = gradient(params, example, dropout_key(run, step, index))
        return jax.tree.map(jnp.add, carry, (sums, gradients)), None

    zeros = (Sums(*[jnp.zeros((), jnp.float32)] * 4), jax.tree.map(jnp.zeros_like, params))
    (sums, gradients), _ = jax.lax.scan(add, zeros, (jnp.arange(run.microbatches), parts))
    return sums, gradients


def loss_sums(
    run: Run,
    model: Transformer,
    params: Any,
    example: Example,
    regularisers: Loss,
    mesh: jax.sharding.Mesh,
    dropout: jax.Array | None = None,
) -> Sums:
    """Return the loss sums of a batched example; `dropout` is a key, or None for none."""
    rngs = None if dropout is None else {"dropout": dropout}
    hidden = model.apply({"params": params}, **example.inputs, deterministic=dropout is None, rngs=rngs)
    kernel, bias = output_projection(model.arch, params)
    problem = getattr(run.objective, "problem", "single_label")
    if problem != "single_label":
        return label_loss(problem, hidden, kernel, bias, example.targets, example.weights)
    return vocabulary_loss(
        hidden,
        kernel,
        bias,
        example.targets,
        example.weights,
        label_smoothing=regularisers.label_smoothing,
        z_loss=regularisers.z_loss,
        shards=mesh.shape["data"] * mesh.shape["fsdp"],
    )


def dropping(arch: Arch) -> bool:
    """Return whether `arch` drops anything, and so needs a key in training."""
    return max(arch.dropout, arch.attention_dropout, arch.activation_dropout) > 0


def dropout_key(run: Run, step: jax.Array, microbatch: int | jax.Array) -> jax.Array:
    """Return the one dropout key of a microbatch, of the run's generator.

    rbg masks must come from one unbatched key: under vmap rbg depends on the order of the batch.
    """
    threefry = key(run.seed, "dropout", step, microbatch)
    if run.compute.dropout_bits == "threefry":
        return threefry
    return jax.random.wrap_key_data(jax.random.bits(threefry, (4,), np.uint32), impl="rbg")

