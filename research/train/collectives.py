"""What the devices of a mesh send one another in a step, read from its program as compiled for CPUs (optimised HLO)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What programs for CPUs do not have.
UNKNOWN = re.compile(rf"({'|'.join(KINDS)})-start|collective-broadcast|ragged-all-to-all|send|recv|async-start")
BITS = {"pred": 8, "bf16": 16}  # others have theirs in their names: f32, s8, u64

COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(.*)$")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"  # the numbers from 0 on, in this shape, its axes transposed


class Collective(NamedTuple):
    """One exchange between the devices of each group."""

    kind: str  # of KINDS
    shapes: tuple[tuple[int, ...], ...]  # of what one device has afterwards
    result: int  # bytes of that
    groups: np.ndarray  # int[G, N]: N devices exchange with one another, in each of G groups
    times: int  # that it runs in a step

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, along a ring: the least that such an exchange takes.

        A sum of N bytes is a reduce-scatter and an all-gather, each of N (n - 1) / n (Patarasuk and Yuan, 2009).
        """
        n = self.groups.shape[1]
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        return self.times * self.result * share.get(self.kind, (n - 1) / n)

    def axes(self, sizes: dict[str, int]) -> tuple[str, ...]:
        """Return along which axes of a mesh of these `sizes` the groups lie; devices are numbered in its order."""
        places = np.unravel_index(self.groups, tuple(sizes.values()))  # of each axis int[G, N]
        return tuple(name for name, place in zip(sizes, places, strict=True) if (place != place[:, :1]).any())


class Instruction(NamedTuple):
    """One line of a program."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]  # type and shape of each result
    given: str  # in its parentheses
    rest: str  # what follows these

    @property
    def operands(self) -> list[str]:
        """Return the names of the instructions that it reads."""
        return re.findall(r"%([\w.\-]+)", self.given)


Computations = dict[str, dict[str, Instruction]]  # each by its name, with its instructions by theirs


def collectives(program: str) -> list[Collective]:
    """Return the exchanges of a `program`, `jit(f).lower(...).compile().as_text()`; in a loop each turn counts, and of
    branches the one that sends most.

    On CPUs XLA sums over devices and then takes each one's part, where for GPUs and TPUs it makes of both a
    reduce-scatter (its pass ReduceScatterCreator), which sends half as much. Here, too, they are one.

    Raises:
        NotImplementedError: An exchange that programs for CPUs do not have.
    """
    computations, entry = _computations(program)

    def within(computation: str) -> Iterator[Collective]:
        for name, one in computations[computation].items():
            if UNKNOWN.fullmatch(one.kind):
                raise NotImplementedError(f"{one.kind} is not read: research/train/collectives.py is to learn it")
            branches = [name.strip(" %") for listed in BRANCHES.findall(one.rest) for name in listed.split(",")]
            called = branches + CALLED.findall(one.rest)
            if one.kind in KINDS:
                yield from _of(name, computations[computation], computations)
            elif one.kind == "conditional":
                found = [list(within(branch)) for branch in called]
                yield from max(found, key=lambda several: sum(each.sent for each in several))
            else:
                turns = TURNS.search(one.rest)
                for each in (each for inner in called for each in within(inner)):
                    yield each._replace(times=each.times * (int(turns[1]) if turns else 1))

    return [one for one in within(entry) if one.groups.shape[1] > 1]


def _computations(program: str) -> tuple[Computations, str]:
    """Return the computations of a program, and the name of the one that is run."""
    found: Computations = {}
    entry, current = "", {}
    for line in program.splitlines():
        if match := COMPUTATION.match(line):
            current = found[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := INSTRUCTION.match(line):
            arrays = tuple((kind, _numbers(sizes)) for kind, sizes in ARRAY.findall(match[2]))
            current[match[1]] = Instruction(match[3], arrays, match[4], match[5])
    return found, entry


def _of(name: str, instructions: dict[str, Instruction], computations: Computations) -> Iterator[Collective]:
    """Yield what the exchange called `name` is: one, or two where some of its results are scattered."""
    one = instructions[name]
    groups = _groups(one.rest)
    parts: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for index, (dtype, shape) in enumerate(one.arrays):
        part = None
        if one.kind == "all-reduce":
            part = _slice(_names(name, index, instructions), instructions, computations)
        scattered = part is not None and math.prod(part) * groups.shape[1] == math.prod(shape)
        parts.setdefault("reduce-scatter" if scattered else one.kind, []).append((dtype, part if scattered else shape))
    for kind, arrays in parts.items():
        bits = (math.prod(shape) * (BITS.get(dtype) or int(re.sub(r"\D", "", dtype))) for dtype, shape in arrays)
        yield Collective(kind, tuple(shape for _, shape in arrays), sum(bits) // 8, groups, 1)


def _names(name: str, index: int, instructions: dict[str, Instruction]) -> list[str]:
    """Return under which names the result numbered `index` of the instruction `name` is read."""
    if len(instructions[name].arrays) == 1:
        return [name]
    part = re.compile(rf", index={index}\b")
    picked = [(other, one) for other, one in instructions.items() if one.kind == "get-tuple-element"]
    return [other for other, one in picked if one.operands == [name] and part.match(one.rest)]


def _slice(
    names: list[str], instructions: dict[str, Instruction], computations: Computations
) -> tuple[int, ...] | None:
    """Return the shape of the one slice that is taken of an array known by `names`; None where more of it is read."""
    found = set()
    for one in instructions.values():
        for place, operand in enumerate(one.operands):
            if operand not in names:
                continue
            if one.kind == "dynamic-slice" and place == 0:
                found.add(one.arrays[0][1])
            elif one.kind == "fusion":
                inner = computations[CALLED.search(one.rest)[1]]
                own = [name for name, each in inner.items() if each.kind == "parameter" and each.given == str(place)]
                found.add(_slice(own, inner, computations))
            else:
                return None
    return found.pop() if len(found) == 1 else None


def _groups(rest: str) -> np.ndarray:
    """Return int[G, N]: groups of devices as HLO writes them: in full, as an iota, by axes of a mesh; or pairs."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return np.array(re.findall(r"\d+", pairs[1]), int).reshape(-1, 2)
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return np.array([re.findall(r"\d+", group) for group in re.findall(r"\{(.*?)\}", listed[1])], int)
    if iota := re.search(rf"replica_groups=\[([\d,]+)\]<={IOTA}", rest):
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    meshed = re.search(rf"replica_groups=mesh\[(.*?)\](?:, device_ids=\({IOTA}\))? \{{(.*?)\}}", rest)
    if not meshed:
        raise NotImplementedError(f"groups of devices are not read: {rest}")
    shape, picked = [], []  # of the mesh, an axis of which a part is taken being cut in three
    parts = {name: (before, size) for name, before, size in re.findall(r"'(.*?)'(?::\((\d+)\)(\d+))?", meshed[4])}
    for name, size in re.findall(r"'(.*?)'=(\d+)", meshed[1]):
        before, taken = (int(n or default) for n, default in zip(parts.get(name, ("1", "1")), ("1", size), strict=True))
        shape += [before, taken, int(size) // (before * taken)]
        picked += [False, True, False]
    devices = _iota(meshed[2], meshed[3]) if meshed[2] else np.arange(math.prod(shape))
    order = sorted(range(len(shape)), key=picked.__getitem__)
    size = math.prod(n for n, taken in zip(shape, picked, strict=True) if taken)
    return devices.reshape(shape).transpose(order).reshape(-1, size)


def _iota(shape: str, order: str | None) -> np.ndarray:
    sizes = _numbers(shape)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_numbers(order) if order else None).ravel()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
