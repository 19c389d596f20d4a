"""How many floating-point operations a training step takes, read from its jaxpr: nothing is computed or compiled.

Counted are the matrix products of the whole step, and they alone: forward, backward, what rematerialisation computes
again, and the update's own (muon's). A product of [m, k] and [k, n] is 2 m n k, since a multiplication and an addition
are two operations (Kaplan et al., 2020, section 2.1); those of attention count, masked or not (Chowdhery et al., 2022,
appendix B, who leave out what is computed again). Rows are as long as the machine computes them, padding included.
Not counted is what works on one element at a time (activations, norms, softmax, the update of each parameter), what is
looked up (embeddings), and what nothing depends on, such as the gradient of a frozen projection, which XLA drops.
"""

from __future__ import annotations

import math

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from research.train.sharding import batch_sharding
from research.train.step import Trainer
from research.types import Record

# Products that the library does not use: whoever takes one up must count it, too.
UNKNOWN = ("conv_general_dilated", "ragged_dot", "scaled_matmul", "pallas_call", "ffi_call")
FUSED = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}  # as if scores were kept


def per_step(trainer: Trainer, rows: Record) -> int:
    """Return the floating-point operations of one update on rows like these, those of all devices together.

    It takes as long as tracing the step, which the first update then need not do: for that, rows are to be described
    as they will lie.
    """
    place = batch_sharding(trainer.mesh)
    rows = {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=place) for name, value in rows.items()}
    return of_products(trainer.update.trace(trainer.shapes, rows).jaxpr.jaxpr)


def of_products(jaxpr: Jaxpr) -> int:
    """Return the floating-point operations of the matrix products that the outputs of `jaxpr` depend on.

    Of a conditional the dearest branch counts. How often a `while` turns is not known, so its body counts once; none in
    training has a product in it (`scan`, `lax.map` and loops of a fixed length are counted in full).
    """
    needed, _ = dce_jaxpr(jaxpr, True)
    return sum(map(_of_equation, needed.eqns))


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name in FUSED:
        (rows, queries, heads, width), (_, keys, *_) = (variable.aval.shape for variable in equation.invars[:2])
        return FUSED[name] * 2 * rows * queries * keys * heads * width
    if name.startswith((*UNKNOWN, "dot_product_attention")):
        raise NotImplementedError(f"the operations of {name} are not counted: research/train/flops.py is to learn it")
    inner = [sum(map(_of_equation, jaxpr.eqns)) for jaxpr in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":  # within it, shapes are those of one shard; jax 0.11 has renamed the axes
        axes = params.get("manual_axes") or params["newly_manual_axes"]
        return math.prod(params["mesh"].shape[axis] for axis in axes) * sum(inner)
    return sum(inner)
