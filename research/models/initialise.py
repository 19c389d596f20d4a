"""How parameters begin: each family's published scheme, Xavier, He, or scaled by depth; `Arch.init` chooses.

Values are a function of (arch, key, path) and of nothing else: not of Linen's own streams, whose folding may change
between releases, nor of the other parameters. The modules give shapes only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.models.arch import Arch
from research.models.ladder import FeedForward, Recurrent
from research.models.paths import flatten, unflatten

RESIDUAL = ("out", "down")  # projections whose output is added to the residual stream


class Draw(NamedTuple):
    """How one parameter is drawn: `scale` times a draw of `kind`."""

    kind: Literal["constant", "normal", "cut", "uniform"]  # cut: the normal within two deviations; uniform: deviation 1
    scale: float


def draw(arch: Arch | FeedForward | Recurrent, path: str, shape: tuple[int, ...]) -> Draw:
    """Return how the parameter at `path` begins: biases at 0, norm scales at 1, tables and kernels at random.

    Those of a recurrent model are uniform within its range (Zaremba et al., 2014, section 4.1); those of a feed-forward
    one are too, with the deviation of its inputs' number ** -0.5 and, for words' vectors, 0.1.
    """
    *above, name, leaf = path.split("/")
    if leaf in ("bias", "scale"):
        return Draw("constant", float(leaf == "scale"))
    if isinstance(arch, Recurrent):
        return Draw("uniform", arch.init_range / math.sqrt(3))
    if isinstance(arch, FeedForward):
        return Draw("uniform", 0.1 if leaf == "embedding" else shape[name == "head"] ** -0.5)
    if leaf == "embedding":
        return _embedding(arch, name)
    if name in ("head", "classifier"):  # the projection onto the vocabulary or onto labels, [V, D]
        return _kernel(arch, name, shape[1], shape[0], branches=1)
    cross = arch.structure == "encoder-decoder" and above[:1] == ["decoder"]
    layers = arch.depth if above[:1] == ["decoder"] else arch.encoder_layers
    return _kernel(arch, name, *shape, branches=layers * (3 if cross else 2))


def _embedding(arch: Arch, name: str) -> Draw:
    """Return the draw of the table `name`: tokens, positions, types or relative.

    BERT (Devlin et al., 2019; google-research/bert) cuts the normal at two deviations without making up for the cut;
    GPT-2 (openai/gpt-2) gives positions half the deviation of tokens; T5 (Raffel et al., 2020; Mesh TensorFlow) uses 1
    for tokens and width ** -0.5 for the relative bias.
    """
    if arch.init == "depth":
        return Draw("normal", 0.02)
    if arch.family == "t5":
        return Draw("normal", arch.width**-0.5 if name == "relative" else 1.0)
    if arch.family == "gpt2" and name == "positions":
        return Draw("normal", 0.01)
    return Draw("cut" if arch.family == "bert" else "normal", 0.02)


def _kernel(arch: Arch, name: str, fan_in: int, fan_out: int, branches: int) -> Draw:
    """Return the draw of the kernel of projection `name`, in a stack of `branches` residual branches.

    Published schemes: 0.02, cut for BERT; GPT-2 divides the residual outputs' by sqrt(branches) (Radford et al., 2019,
    section 2.3); T5 uses fan_in ** -0.5, in v1.1's output projection too (Mesh TensorFlow and t5x; `transformers` uses
    1, which begins with logits of deviation sqrt(D)). Xavier is uniform (Glorot and Bengio, 2010), He normal (He et
    al., 2015). Where attention scores are not divided by sqrt(head width), the query's kernel is.
    """
    unscaled = name == "query" and not arch.scale_attention
    query = math.sqrt(arch.heads / arch.attention_width) if unscaled else 1.0
    depth = 1 / math.sqrt(branches) if name in RESIDUAL else 1.0
    if arch.init == "xavier":
        return Draw("uniform", query * math.sqrt(2 / (fan_in + fan_out)))
    if arch.init == "he":
        return Draw("normal", query * math.sqrt(2 / fan_in))
    if arch.init == "depth":
        return Draw("normal", query * depth * 0.02)
    if arch.family == "t5":
        return Draw("normal", query * fan_in**-0.5)
    return Draw("cut" if arch.family == "bert" else "normal", 0.02 * (depth if arch.family == "gpt2" else 1.0))


def values(arch: Arch, shapes: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
    """Return float32 parameters of `shapes` (a nested dict of things with a shape), traceable.

    Parameters of one shape and kind are drawn together: XLA takes a fifth of a second to compile each draw, and a deep
    model has hundreds. What each gets is what it would get alone.
    """
    leaves, groups = {}, {}
    for path, leaf in flatten(shapes).items():
        how = draw(arch, path, leaf.shape)
        if how.kind == "constant":
            leaves[path] = jnp.full(leaf.shape, how.scale, jnp.float32)
        else:
            groups.setdefault((how.kind, leaf.shape), {})[path] = how.scale
    for (kind, shape), scales in groups.items():
        names = jnp.asarray([zlib.crc32(path.encode()) for path in scales], jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, names)
        drawn = jax.vmap(lambda one, kind=kind, shape=shape: _unit(kind, one, shape))(keys)
        drawn = drawn * np.asarray(list(scales.values()), np.float32).reshape(-1, *[1] * len(shape))
        leaves |= {path: drawn[i] for i, path in enumerate(scales)}
    return unflatten({path: leaves[path] for path in flatten(shapes)})


def _unit(kind: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if kind == "uniform":
        return jax.random.uniform(key, shape, jnp.float32, -math.sqrt(3), math.sqrt(3))
    if kind == "cut":
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return jax.random.normal(key, shape, jnp.float32)
