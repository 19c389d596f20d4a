"""What a model cost, in units that all rows of a table share: parameters, tokens, FLOPs, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from research.report.cells import Grid
from research.report.fields import ABSENT
from research.report.runs import Logged

NAMES = {"parameters": "parameters", "tokens": "tokens", "flops": "FLOPs", "seconds": "time"}
UNITS = {0: "", 3: "k", 6: "M", 9: "B", 12: "T"}


class Cost(NamedTuple):
    """How one cost is shown."""

    name: str
    head: str
    scale: float
    digits: int | None  # decimals; None: three significant digits, whatever their place

    def text(self, cells: Sequence[Sequence[Logged]]) -> tuple[str, str]:
        """Return the cost of a row, the mean of each of its cells, as a range where they differ; or a dash and why."""
        held = [[run.cost(self.name) for run in runs] for runs in cells]
        means = [sum(known) / len(known) / self.scale for runs in held if (known := [v for v in runs if v is not None])]
        if means:
            return spanned(means, self._number), ""
        if self.name == "flops" and any(cells) and not any(run.updated for runs in cells for run in runs):
            if any(run.facts.get("parts") for runs in cells for run in runs):
                return ABSENT, "a mixture: training FLOPs are told of its parts"
            return ABSENT, "counted: no updates, so no training FLOPs"
        what = {"flops": "training FLOPs", "seconds": "time"}.get(self.name, self.name)
        file = "metrics.jsonl" if self.name in ("tokens", "seconds") else "run.json"
        return ABSENT, f"{file} records no {what}" if cells else "no finished run"

    def _number(self, value: float) -> str:
        return scientific(value) if self.digits is None else f"{value:,.{self.digits}f}"


def column(grid: Grid, name: str) -> Cost:
    """Return how a cost is shown in all rows: in one unit, named in the head; in powers of ten where far apart."""
    values = [v for row in grid.row_keys for runs in grid.of_row(row) for run in runs if (v := run.cost(name))]
    if name == "seconds":
        longest = max(values, default=0)
        unit, scale = ("h", 3600) if longest >= 3 * 3600 else ("min", 60) if longest >= 300 else ("s", 1)
        least = min(values, default=1) / scale
        return Cost(name, f"time ({unit})", scale, 0 if least >= 100 else 1 if least >= 1 else 2)
    if not values or max(values) / min(values) >= 1e4:
        return Cost(name, NAMES[name], 1, None)
    power = 3 * math.floor(math.log10(min(values)) / 3 + 1 / 3)  # 0.5 M rather than 500 k
    power = min(18 if name == "flops" else 12, max(0, power))
    unit = f" (10{superscript(power)})" if name == "flops" and power else f" ({UNITS[power]})" if power else ""
    least = min(values) / 10**power
    return Cost(name, NAMES[name] + unit, 10.0**power, 0 if least >= 100 or not power else 1 if least >= 10 else 2)


def spanned(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Return the one value, or the least and the greatest."""
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low}–{high}"


def superscript(number: int) -> str:
    """Return `number` in raised digits."""
    return str(number).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))


def scientific(value: float) -> str:
    """Return `value` with three significant digits: 812, 1.30 × 10¹⁵."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{superscript(int(exponent))}"
