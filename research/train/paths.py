"""The one path language: regular expressions on 'encoder/block_0/mlp/up/kernel' pick what is sharded or decayed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

from research.models.arch import Arch
from research.models.rules import HEADS


def name(path: tuple[Any, ...]) -> str:
    """Return a tree path as names joined by '/'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return `tree` with every leaf replaced by function(path, leaf)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(name(path), leaf), tree)


def layer(arch: Arch, path: str) -> int:
    """Return the layer that a parameter is in: 0 for embeddings, 1 for the first block, ..., 1 + blocks for the head.

    Of an encoder-decoder the encoder's blocks come first, then the decoder's. The norm after a stack belongs to its
    last block.
    """
    if path.startswith(HEADS):
        return arch.encoder_layers + arch.depth + 1
    stack, part, *_ = path.split("/")
    below, blocks = (arch.encoder_layers, arch.depth) if stack == "decoder" else (0, arch.encoder_layers)
    if part == "final_norm":
        return below + blocks
    found = re.fullmatch(r"block_(\d+)", part)
    return below + int(found[1]) + 1 if found else 0


def matching(pattern: str, tree: Any) -> Any:
    """Return a tree of bools: whether each leaf's path matches `pattern` (an empty pattern matches nothing)."""
    compiled = re.compile(pattern) if pattern else None
    return map_named(lambda path, _: bool(compiled and compiled.search(path)), tree)
