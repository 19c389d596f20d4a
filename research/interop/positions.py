"""Tables of learned positions for other lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from research.models.arch import Arch
from research.models.paths import flatten, unflatten
from research.types import UserError


def resize_positions(params: Mapping[str, Any], arch: Arch, max_length: int) -> tuple[dict[str, Any], Arch]:
    """Return `params` and `arch` with position tables for `max_length` tokens.

    A longer table is cut; a shorter one is repeated from its start, so that neighbours keep the distances they were
    trained with (Beltagy et al., 2020, section 5). Rows before position 0 stay as they are.

    Args:
        params: Arrays (numpy or jax, sharded or not), nested, below "params".
        arch: Theirs, with learned positions.
        max_length: In tokens.

    Raises:
        UserError: Relative positions, which have no table and fit any length, or a `max_length` below 1.
    """
    if arch.positions != "learned":
        raise UserError(f"arch.positions is {arch.positions!r}: it has no table to resize and fits any length")
    if max_length < 1:
        raise UserError(f"max_length is {max_length}: it must be at least 1")
    first = arch.position_offset
    rows = np.concatenate([np.arange(first), first + np.arange(max_length) % arch.max_length])
    leaves = {
        path: leaf[rows] if path.endswith("/positions/embedding") else leaf for path, leaf in flatten(params).items()
    }
    return unflatten(leaves), replace(arch, max_length=max_length)
