"""Two-way names: each family's table of rules turns our parameter paths into Hugging Face's tensor names and back.

A family file holds three tables. `RULES` pairs paths with names. `COPIES` lists the names under which a file may hold a
tied tensor once more: accepted when equal, never written. `IGNORED` lists what a file may hold and we have no use for.
Nothing here reads or writes files, and arrays are numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from research.models.arch import Arch
from research.models.paths import flatten, unflatten
from research.types import UserError

HEADS = ("head/", "pooler/", "classifier/")  # how the paths begin of what follows the last block


class Rule(NamedTuple):
    """One tensor of theirs and the parameters of ours that it holds; `{i}` stands for the index of a block."""

    ours: str | tuple[str, ...]  # paths below "params"; several are concatenated along the last axis
    theirs: str  # the name in a file of the model with its head
    turn: Literal["same", "transpose", "row"] = "same"  # torch's Linear is [out, in]; row: [1, V] there, [V] here
    when: Literal["", "gated", "ungated", "vocabulary", "sequence", "tokens"] = ""  # what arch.gated or arch.head is

    @property
    def paths(self) -> tuple[str, ...]:
        """Return `ours` as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def projections(
    ours: str, theirs: str, names: Mapping[str, str], *, bias: bool = True, when: str = ""
) -> tuple[Rule, ...]:
    """Return the rules of torch Linears: `names` maps each of ours to theirs, both filled in for `{}`."""
    rules = []
    for mine, their in names.items():
        left, right = ours.replace("{}", mine), theirs.replace("{}", their)
        rules.append(Rule(f"{left}/kernel", f"{right}.weight", "transpose", when))
        if bias:
            rules.append(Rule(f"{left}/bias", f"{right}.bias", when=when))
    return tuple(rules)


def norms(names: Mapping[str, str], *, bias: bool = True) -> tuple[Rule, ...]:
    """Return the rules of norms: `names` maps each of ours to theirs."""
    scales = (Rule(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in names.items())
    biases = (Rule(f"{ours}/bias", f"{theirs}.bias") for ours, theirs in names.items())
    return (*scales, *(biases if bias else ()))


def expected(arch: Arch) -> Iterator[tuple[Rule, tuple[str, ...], str, tuple[tuple[int, ...], ...]]]:
    """Yield (rule, our paths, their name, our shapes) for every tensor that a file of `arch` holds, in table order.

    Raises:
        UserError: The architecture has parameters that its family's published layout has no name for.
    """
    from research.models.build import parameter_shapes

    shapes = {path: leaf.shape for path, leaf in flatten(parameter_shapes(arch)).items()}
    left = dict(shapes)
    for rule in _family(arch).RULES:
        if not _applies(rule, arch):
            continue
        blocks = range(max(arch.encoder_layers, arch.depth)) if "{i}" in rule.theirs else (0,)
        for i in blocks:
            paths = tuple(path.replace("{i}", str(i)) for path in rule.paths)
            if paths[0] in left:
                yield rule, paths, rule.theirs.replace("{i}", str(i)), tuple(left.pop(path) for path in paths)
    if left:
        raise UserError(
            f"no Hugging Face name for parameter {min(left)} of a {arch.family} {arch.structure}: "
            "this shape of model cannot be exchanged"
        )


def to_huggingface(arch: Arch, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of `params` (nested, below "params") as a file of the model with its head names them.

    Tied tensors are written once. Transposes are views: nothing is copied but GPT-2's fused projections.

    Raises:
        UserError: A parameter that is missing, that no rule names, or whose shape is not that of `arch`.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    tensors = {}
    for rule, paths, name, shapes in expected(arch):
        parts = []
        for path, shape in zip(paths, shapes, strict=True):
            if path not in leaves:
                raise UserError(f"parameter {path} is missing: these parameters are not of this architecture")
            if leaves[path].shape != shape:
                raise UserError(f"parameter {path} has shape {leaves[path].shape}, the architecture says {shape}")
            parts.append(leaves.pop(path))
        tensor = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        tensors[name] = tensor.T if rule.turn == "transpose" else tensor[None] if rule.turn == "row" else tensor
    if leaves:
        raise UserError(f"parameter {min(leaves)} is not of this architecture: remove it or change arch")
    return tensors


class Match(NamedTuple):
    """One tensor of a file and the parameters that it holds."""

    paths: tuple[str, ...]
    name: str  # as the file has it
    copies: tuple[str, ...]  # tensors of the file that must equal it
    turn: str
    widths: tuple[int, ...]  # of each parameter along the last axis


def match(
    arch: Arch, shapes: Mapping[str, tuple[int, ...]], optional: tuple[str, ...] = (), fresh: tuple[str, ...] = ()
) -> tuple[list[Match], list[str]]:
    """Return which tensor of a Hugging Face file, known by their shapes, holds which parameters of `arch`.

    Names may lack the family's prefix (`bert.`, `transformer.`, `model.`), as files of models without a head do; heads
    that `arch` has not are left out.

    Args:
        arch: What the file should hold.
        shapes: Of every tensor in it, by name.
        optional: How paths begin that need not be there, as HEADS; those absent, and a classifier of another number of
            labels, are returned beside the matches.
        fresh: How paths begin that count as absent although they may be there.

    Raises:
        UserError: A tensor that is missing, unexpected or of another shape; the message names the tensor and both
            shapes.
    """
    family = _family(arch)
    left: dict[str, str] = {}
    for name in shapes:
        if (other := left.setdefault(_canonical(name, family), name)) != name:
            raise UserError(f"tensors {other} and {name} are the same parameter: remove one of them")
    matches, absent = [], []
    rows = list(expected(arch))
    own = {name for _, _, name, _ in rows}  # an untied projection is no copy
    for rule, paths, name, ours in rows:
        copies = [copy for copy, of in family.COPIES.items() if of == name and copy not in own]
        found = [left.pop(n) for n in (name, *copies) if n in left]
        if arch.head != "vocabulary":  # a projection onto the vocabulary is no copy here, but a head that is left out
            found = found[:1]
        widths = tuple(shape[-1] for shape in ours)
        shape = (*ours[0][:-1], sum(widths))
        shape = shape[::-1] if rule.turn == "transpose" else (1, *shape) if rule.turn == "row" else shape
        fits = bool(found) and tuple(shapes[found[0]]) == shape
        lacks = not found or (not fits and paths[0].startswith("classifier/"))  # made for another number of labels
        if paths[0].startswith(fresh) or (lacks and paths[0].startswith(optional)):
            absent += paths
            continue
        if not found:
            raise UserError(f"tensor {name} is missing: the file does not hold this {arch.family} architecture")
        if not fits:
            raise UserError(f"tensor {found[0]} has shape {tuple(shapes[found[0]])}, the architecture says {shape}")
        matches.append(Match(paths, found[0], tuple(found[1:]), rule.turn, widths))
    known = {rule.theirs for rule in family.RULES if rule.paths[0].startswith(HEADS)}
    known |= {copy for copy, of in family.COPIES.items() if of in known}
    for name, stored in left.items():
        if name not in known and not _ignored(name, family):
            raise UserError(f"tensor {stored} is unexpected: the architecture has no place for it")
    return matches, absent


def leaves(matches: Iterable[Match], tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (path, array) of the parameters in `tensors`, one tensor at a time; arrays are views of theirs.

    Raises:
        UserError: A tensor that should equal one it is tied to and does not.
    """
    for one in matches:
        tensor = np.asarray(tensors[one.name])
        for copy in one.copies:
            if not np.array_equal(tensors[copy], tensor):
                raise UserError(f"tensor {copy} differs from {one.name}, to which this architecture ties it")
        tensor = tensor.T if one.turn == "transpose" else tensor[0] if one.turn == "row" else tensor
        yield from zip(one.paths, np.split(tensor, np.cumsum(one.widths)[:-1], axis=-1), strict=True)


def from_huggingface(arch: Arch, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return float32 parameters (nested, below "params") of the tensors of a Hugging Face file; inverts the above.

    Float32 tensors are not copied.

    Raises:
        UserError: As `match` and `leaves`.
    """
    matches, _ = match(arch, {name: np.shape(tensor) for name, tensor in tensors.items()})
    return unflatten({path: array.astype(np.float32, copy=False) for path, array in leaves(matches, tensors)})


def heads(arch: Arch, names: Iterable[str]) -> set[str]:
    """Return the paths of heads that a file with tensors of these `names` holds, whether `arch` has them or not.

    What holds them may depend on what `arch` projects states onto.
    """
    family = _family(arch)
    there = {_canonical(name, family) for name in names}
    rules = [rule for rule in family.RULES if rule.paths[0].startswith(HEADS) and _applies(rule, arch)]
    return {rule.paths[0] for rule in rules if rule.theirs in there}


def _applies(rule: Rule, arch: Arch) -> bool:
    return rule.when in ("", "gated" if arch.gated else "ungated", arch.head)


def _canonical(name: str, family: Any) -> str:
    """Return `name` as the tables write it: with the family's prefix, and without TensorFlow's words for norms."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    known = {rule.theirs for rule in family.RULES} | set(family.COPIES)
    template = re.sub(r"\.\d+\.", ".{i}.", name, count=1)
    if name in known or template in known or not family.PREFIX or name.startswith(family.PREFIX):
        return name
    prefixed = family.PREFIX + name
    return prefixed if {prefixed, family.PREFIX + template} & known or _ignored(prefixed, family) else name


def _ignored(name: str, family: Any) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in family.IGNORED)


def _family(arch: Arch) -> Any:
    from research.models import FAMILIES  # which imports the tables, which import Rule from here

    return FAMILIES[arch.family]
