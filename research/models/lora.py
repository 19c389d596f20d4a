"""Low-rank updates of projections (LoRA; Hu et al., 2022): a kernel W [in, out] acts as W + scale x A B.

A float32[in, r] and B float32[r, out] are the leaves lora_a and lora_b beside the kernel. No module knows of them: the
forward pass is intercepted, so that W stays as it is and gets no gradient.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.dropout import drop
from research.models.layers import Dense

A, B = "lora_a", "lora_b"


def updated(scale: float, dropout: float = 0.0, deterministic: bool = True) -> AbstractContextManager[None]:
    """Return a context in which every Dense whose parameters hold A and B returns y + scale x dropout(x) A B.

    Each has a mask of its own, drawn from the rng "dropout", as each module of PEFT has. Products are in the module's
    dtype. One with r much smaller than in and out costs r (in + out) / (in x out) of the kernel's own product.
    """

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        y = call(*args, **kwargs)
        if not isinstance(module, Dense) or context.method_name != "__call__" or not module.has_variable("params", A):
            return y
        (x,) = args
        a, b = (module.get_variable("params", name).astype(module.dtype) for name in (A, B))
        if dropout and not deterministic:
            x = drop(x, dropout, module.make_rng("dropout"))
        flat = x.reshape(-1, x.shape[-1]).astype(module.dtype)
        return y + scale * (flat @ a @ b).reshape(y.shape)

    return nn.intercept_methods(intercept)


def initial(kernels: Mapping[str, tuple[int, int]], rank: int, key: jax.Array) -> dict[str, jax.Array]:
    """Return {path: array} of the A and B beside kernels of these shapes [in, out], by path; traceable.

    A is uniform in +-1/sqrt(in) and B is 0, as PEFT begins, so that the first forward pass is that of the kernels
    alone. Each A is a function of the key and its path. Those of one shape are drawn together, as compiling a draw is
    slow.
    """
    leaves, groups = {}, {}
    for path, (inputs, outputs) in kernels.items():
        groups.setdefault(inputs, []).append(f"{path.removesuffix('kernel')}{A}")
        leaves[f"{path.removesuffix('kernel')}{B}"] = jnp.zeros((rank, outputs), jnp.float32)
    for inputs, names in groups.items():
        numbers = jnp.asarray([zlib.crc32(name.encode()) for name in names], jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        bound = inputs**-0.5
        drawn = jax.vmap(lambda one, n=inputs, u=bound: jax.random.uniform(one, (n, rank), jnp.float32, -u, u))(keys)
        leaves |= {name: drawn[i] for i, name in enumerate(names)}
    return leaves


def folded(leaves: Mapping[str, jax.Array], scale: float) -> dict[str, jax.Array]:
    """Return parameters, by path, with each A and B added to the kernel beside them: W + scale x A B, and no A or B."""
    result = {path: leaf for path, leaf in leaves.items() if path.rsplit("/", 1)[-1] not in (A, B)}
    for path, a in leaves.items():
        if path.endswith(f"/{A}"):
            place = path.removesuffix(A)
            result[f"{place}kernel"] = leaves[f"{place}kernel"] + scale * jnp.matmul(a, leaves[f"{place}{B}"], precision="highest")
    return result
