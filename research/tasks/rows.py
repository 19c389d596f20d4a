"""Tables of rows, and rows by index: which ones every step reads, as a function of (seed, step) and nothing else."""

from __future__ import annotations

import json
import mmap
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from research.data.batches import CHUNK, Place
from research.keys import permute
from research.types import Record, UserError

HOST = ("example", "word")  # arrays that say what a row's slots and tokens belong to: no device needs them

Example = dict[str, Any]
"""What scoring, error lists and generation need of an example: its place, and what its task names."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one split, and the examples that they hold."""

    name: str  # for messages
    arrays: dict[str, np.ndarray]  # of R rows each, as the objective names them, and those of HOST
    examples: Sequence[Example]
    report: dict[str, Any]
    fill: dict[str, int]  # what each array has where a row is padding; 0 where it is not said

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.arrays["segments"])

    def pick(self, index: np.ndarray, names: Sequence[str] | None = None) -> Record:
        """Return the rows numbered `index`, int64[N], copied; beyond the last, rows of padding."""
        index = np.asarray(index)
        inside = index < self.count
        result = {}
        for name in self.arrays if names is None else names:
            array = self.arrays[name]
            if inside.all():
                result[name] = np.array(array[index])
            else:
                found = result[name] = np.full((len(index), *array.shape[1:]), self.fill.get(name, 0), array.dtype)
                found[inside] = array[index[inside]]
        return result


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table as training and evaluation look them up; no iterator, as for running text.

    The n-th row of a run (n = step * B + b) belongs to epoch n // count, whatever the batch size: every row comes
    exactly once an epoch, in the order that running text of as many rows has.
    """

    table: Table
    batch_size: int = 1
    seed: int = 0

    mixed = False  # a mixture of sources, whose epochs differ

    @property
    def count(self) -> int:
        """Rows of an epoch."""
        return self.table.count

    def batch(self, step: int, part: slice = slice(None)) -> Record:
        """Return the B rows of a step (0, 1, ...), or a `part` of them: the arrays that the objective reads."""
        return self.pick(self._places(step)[1, part])

    def locate(self, step: int) -> list[Place]:
        """Return where each of the B rows of a step comes from, for messages that name the rows."""
        return [Place(0, int(epoch), int(row)) for epoch, row in self._places(step).T]

    def take(self, start: int, stop: int, with_bytes: bool = False) -> Record:
        """Return rows start..stop-1 in their fixed order; see `pick`."""
        return self.pick(np.arange(start, stop), with_bytes)

    def pick(self, index: np.ndarray, with_bytes: bool = False) -> Record:
        """Return the rows numbered `index`, int64[N], in their fixed order; from `count` on, rows of padding that
        nothing is scored in. Tasks count no bytes: `with_bytes` is there for running text."""
        return self.table.pick(index, [name for name in self.table.arrays if name not in HOST])

    def _places(self, step: int) -> np.ndarray:
        """Return int64[2, B]: epoch and row; many steps' are looked up at once, as for running text."""
        steps = max(1, min(CHUNK, 8 * self.count // self.batch_size))
        chunk, at = divmod(step, steps)
        if self._kept[0][0] != chunk:
            size = steps * self.batch_size
            epoch, row = np.divmod(np.arange(chunk * size, (chunk + 1) * size), self.count)
            for e in np.unique(epoch):
                row[epoch == e] = permute(row[epoch == e], self.count, self.seed, 0, int(e))
            self._kept[0] = (chunk, np.stack([epoch, row]))
        return self._kept[0][1][:, at * self.batch_size : (at + 1) * self.batch_size]

    @cached_property
    def _kept(self) -> list[tuple[int, np.ndarray]]:
        return [(-1, np.zeros((2, 0), np.int64))]


class Lines(Sequence[Example]):
    """Examples in a file of JSON lines, read when they are looked up."""

    def __init__(self, path: pathlib.Path, offsets: np.ndarray) -> None:
        self.offsets = offsets  # int64[N + 1]: where each line begins, and the file ends
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return json.loads(self.map[int(self.offsets[index]) : int(self.offsets[index + 1])])

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))


def read(folder: pathlib.Path, name: str) -> Table:
    """Return the table whose arrays, examples.jsonl and report.json are in `folder`, mapped and not read.

    Raises:
        UserError: a file is missing or broken: delete the folder to build it anew.
    """
    try:
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        examples = Lines(folder / "examples.jsonl", arrays.pop("offsets"))
        meta = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if meta["rows"] != len(arrays["segments"]) or meta["examples"] != len(examples):
            raise ValueError("its parts do not fit together")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the cached table {folder} cannot be read ({error}): delete it to build it anew") from error
    return Table(name, arrays, examples, meta, meta.pop("fill"))
