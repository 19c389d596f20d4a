"""One update as a pure function: (state, rows) -> (state, metrics), jit-compiled over a mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from research.config import Loss, Run, averages, problem_of, unfused
from research.keys import key
from research.models import lora
from research.models.build import Model, create, initial_parameters, start
from research.models.heads import output_projection
from research.models.ladder import rates
from research.models.paths import flatten, unflatten
from research.train import adapter, optimizer, processes, sharding
from research.train.loss import Sums, label_loss, vocabulary_loss
from research.types import Example, Record, State, Vocabulary


# Not to do: a pass of XLA:CPU's that takes barriers away before what stands on both sides of one is found to be alike. It
# would compute nothing again and keep all. For GPUs and TPUs they are taken away later.
REMATERIALISE_ON_CPU = {"xla_disable_hlo_passes": "cse_barrier_expander"}


class Trainer(NamedTuple):
    """What a run compiles: a model and three jitted functions over one mesh."""

    model: Model
    mesh: jax.sharding.Mesh
    shapes: State  # jax.ShapeDtypeStruct leaves with shardings: what a checkpoint is restored into
    parameters: Any  # the same of the model's own parameters, nested
    merge: Callable[[Any, Any], Any]  # trainable (or its averages) and frozen -> the model's own parameters
    initialize: Callable[..., State]  # of {path: array} of parameters to start from; what is not among them is fresh
    update: Callable[[State, Record], tuple[State, dict[str, jax.Array]]]  # donates the state
    place: Callable[..., Record]  # host rows -> the mesh; see `processes.placed`


def trainer(run: Run, vocabulary: Vocabulary, mesh: jax.sharding.Mesh) -> Trainer:
    """Return the compiled parts of `run`, whose arch and steps are resolved (see `session.open_session`)."""
    sharding.check_batch(run.batch_size, run.microbatches, mesh)
    model = create_model(run)
    rate = optimizer.learning_rate(run.schedule, run.optimizer.learning_rate, run.steps)
    gradual = run.adapter.unfreeze_every > 0
    config = dataclasses.replace(run.optimizer, clip=0.0) if gradual else run.optimizer  # then clipped here
    rule = optimizer.create(config, rate, run.arch)

    def initialize(given: dict[str, jax.Array] | None = None) -> State:
        params = unflatten(flatten(initial_parameters(run.arch, key(run.seed, "init"))) | (given or {}))
        trainable, frozen = adapter.split(run.adapter, run.arch, params, key(run.seed, "adapter"))
        kept = jax.tree.map(jnp.copy, trainable) if averages(run) else ()
        return State(jnp.zeros((), jnp.int32), trainable, frozen, rule.init(trainable), kept, first_carry(run))

    shapes, placed = sharding.placed(jax.eval_shape(initialize), mesh, run.arch)
    merged = functools.partial(adapter.merge, run.adapter)
    parameters, _ = sharding.placed(jax.eval_shape(merged, shapes.trainable, shapes.frozen), mesh, run.arch)
    rows = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)
    opens = adapter.opens(run.adapter, run.arch, flatten(shapes.trainable)) if gradual else {}

    def merge(trainable: Any, frozen: Any) -> Any:  # outside jit, which would copy what it leaves as it is
        return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), merged(trainable, frozen), parameters)

    def update(state: State, record: Record) -> tuple[State, dict[str, jax.Array]]:
        sums, gradients, carry = gradient_sums(run, model, vocabulary, mesh, state, record)
        scale = 1.0 / jnp.maximum(sums.weight, 1e-8)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        opened = {path: state.step >= step for path, step in opens.items()}
        norm = optax.tree.norm(adapter.where(opened, gradients, 0.0))
        every = optax.tree.norm(gradients) if gradual else norm
        finite = jnp.isfinite(sums.total) & jnp.isfinite(every)

        def apply(state: State) -> State:
            found = adapter.clip(run.optimizer.clip, opened, gradients, norm, every) if gradual else gradients
            updates, opt_state = rule.update(found, state.opt_state, state.trainable)
            trainable = adapter.where(opened, optax.apply_updates(state.trainable, updates), state.trainable)
            kept = state.averages
            if averages(run):
                share = optimizer.newest_share(run, state.step)
                kept = adapter.where(opened, optax.incremental_update(trainable, kept, share), kept)
            return State(state.step + 1, trainable, state.frozen, opt_state, kept, carry)

        metrics = {
            "loss": sums.nll * scale,
            "accuracy": sums.correct * scale,
            "learning_rate": rate(state.step),
            "gradient_norm": norm,
            "finite": finite,
        }
        if problem_of(run) != "single_label":
            del metrics["accuracy"]  # of labels apart, or of numbers: not what evaluations call so
        if run.loss.label_smoothing or run.loss.z_loss:
            metrics["regularized_loss"] = sums.total * scale
        moving = state._replace(frozen={})  # what is frozen never passes through the branch, which might copy it
        moving = jax.lax.cond(finite, apply, lambda state: state, moving)
        return moving._replace(frozen=state.frozen), metrics

    cpu = mesh.devices.flat[0].platform == "cpu"
    options = REMATERIALISE_ON_CPU if run.compute.remat and cpu else None

    return Trainer(
        model=model,
        mesh=mesh,
        shapes=shapes,
        parameters=parameters,
        merge=merge,
        initialize=jax.jit(initialize, out_shardings=placed, donate_argnums=0),
        update=jax.jit(
            update,
            in_shardings=(placed, rows),
            out_shardings=(placed, whole),
            donate_argnums=0,
            compiler_options=options,
        ),
        place=functools.partial(processes.placed, mesh),
    )


def create_model(run: Run) -> Model:
    """Return the Linen module of `run`, computing in its dtype."""
    return create(run.arch, jnp.dtype(run.compute.dtype), run.compute.remat, fuses(run))


def fuses(run: Run) -> bool:
    """Return whether cuDNN's kernel computes the attention of `run` here."""
    return run.compute.attention != "xla" and not unfused(run) and cuda_capability() >= 8.0


def cuda_capability() -> float:
    """Return the compute capability of the NVIDIA GPU that JAX computes on; 0 where it is none."""
    device = jax.devices()[0]
    return float(device.compute_capability) if "NVIDIA" in device.device_kind else 0.0


def first_carry(run: Run, rows: int = 0) -> Any:
    """Return what `rows` (0: those of a batch) carry over before the first step; nothing, (), where rows stand alone.

    In a stream, row b of a step goes on where row b of the step before it ended; in shuffled order every row begins
    anew.
    """
    return start(run.arch, rows or run.batch_size) if run.data.order == "stream" else ()


def examples(run: Run, vocabulary: Vocabulary, stream_keys: jax.Array, record: Record) -> Example:
    """Return the batched example that run.objective makes of each row with the key beside it."""
    rows = {name: value for name, value in record.items() if name != "bytes"}
    return jax.vmap(lambda k, row: run.objective(k, row, vocabulary))(stream_keys, rows)


def gradient_sums(
    run: Run,
    model: Model,
    vocabulary: Vocabulary,
    mesh: jax.sharding.Mesh,
    state: State,
    record: Record,
) -> tuple[Sums, Any, Any]:
    """Return the loss sums of one batch, the gradient of their total in `state.trainable` alone, and the next carry.

    Both are sums, to be divided by the weight only once. No gradient goes through the carry (truncated
    back-propagation through time; Williams and Peng, 1990).

    Means of microbatches would be wrong whenever they score different token counts (which is what
    `optax.MultiSteps` averages). Corruption is keyed by the row's place in the whole batch, so it is the same for any
    number of microbatches or devices.
    """
    row = jnp.arange(run.batch_size)
    keys = jax.vmap(lambda r: key(run.seed, "corruption", state.step, r))(row)
    example = examples(run, vocabulary, keys, record)

    def total(trainable: Any, example: Example, carry: Any, dropout: jax.Array) -> tuple[jax.Array, tuple[Sums, Any]]:
        # Gathered twice, which XLA makes one: so each part of a tied table's gradient is scattered, not summed whole.
        whole, last = (sharding.gathered(adapter.join(trainable, state.frozen), mesh, run.arch) for _ in range(2))
        states, carry = last_states(run, model, whole, example, dropout if dropping(run) else None, carry)
        sums = loss_sums(run, last, states, example, run.loss, mesh)
        return sums.total, (sums, carry)

    gradient = jax.grad(total, has_aux=True)
    if run.microbatches == 1:
        dropout = key(run.seed, "dropout", state.step, 0)
        gradients, (sums, carry) = gradient(state.trainable, example, state.carry, dropout)
        return sums, gradients, carry

    # Strided, so that each device's rows stay on it: row r goes to microbatch r % M.
    count = run.microbatches
    parts = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1), (example, state.carry)
    )

    def add(totals: Any, part: tuple[jax.Array, tuple[Example, Any]]) -> tuple[Any, Any]:
        index, (example, carry) = part
        dropout = key(run.seed, "dropout", state.step, index)
        gradients, (sums, carry) = gradient(state.trainable, example, carry, dropout)
        return jax.tree.map(jnp.add, totals, (sums, gradients)), carry

    zeros = (Sums(*[jnp.zeros((), jnp.float32)] * 4), jax.tree.map(jnp.zeros_like, state.trainable))
    (sums, gradients), carry = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
    return sums, gradients, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), carry)


def last_states(
    run: Run, model: Model, params: Any, example: Example, dropout: jax.Array | None = None, carry: Any = ()
) -> tuple[jax.Array, Any]:
    """Return the states [B, T or K, D] of a batched example before the last projection, and the next carry.

    `params` are those of the model, where training low-rank updates those of `adapter.join`; `dropout` is a key or
    None, `carry` what the rows before left (see `first_carry`).
    """
    settings = {"deterministic": dropout is None, "rngs": None if dropout is None else {"dropout": dropout}}
    with lora.updated(adapter.scale(run.adapter), run.adapter.dropout, deterministic=dropout is None):
        if jax.tree.leaves(carry):
            return model.apply({"params": params}, example.inputs["tokens"], carry, **settings, method=model.read)
        return model.apply({"params": params}, **example.inputs, **settings), ()


def loss_sums(
    run: Run, params: Any, hidden: jax.Array, example: Example, regularisers: Loss, mesh: jax.sharding.Mesh
) -> Sums:
    """Return the loss sums of a batched example whose last states are `hidden`."""
    kernel, bias = output_projection(run.arch, params)
    problem = problem_of(run)
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
        mesh=mesh,
    )


def dropping(run: Run) -> bool:
    """Return whether anything is dropped in training, which then needs a key."""
    low_rank = run.adapter.dropout if run.adapter.method == "lora" else 0.0
    return max(low_rank, *(getattr(run.arch, name) for name in rates(run.arch))) > 0
