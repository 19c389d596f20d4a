"""What every figure shares: the width of a paper's column, colours, markers and dashes, and how it is written."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from research.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 3.4
"""Inches."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito (2008): colour-blind safe
MARKERS = "osD^vPX*<>p"  # as many as have no divisor in common with colours and dashes
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def style(i: int) -> dict[str, Any]:
    """Return how curve `i` is drawn: in grey, points of 22 are told apart by their markers, curves by their dashes too."""
    colour = COLOURS[i % len(COLOURS)]
    return {
        "color": colour,
        "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markerfacecolor": "white" if i // len(MARKERS) % 2 else colour,
    }


@contextlib.contextmanager
def drawn(path: pathlib.Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of `width` x `height` inches, which is written to `path` afterwards.

    Raises:
        UserError: `path` is not a .png, .pdf or .svg.
    """
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"figure {path}: a figure is .png, .pdf or .svg")
    import matplotlib
    from matplotlib.figure import Figure

    # Type 42 fonts stay text: several venues refuse the default, which draws letters. No pyplot: it needs no display.
    fonts = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "pdf.fonttype": 42, "svg.fonttype": "none"}
    with matplotlib.rc_context(fonts | {"axes.formatter.use_mathtext": True}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are drawn as boxes
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200)


def plain(text: str, longest: int = 28) -> str:
    """Return a name as figures show it: without formulas, its middle left out where a column has no room for it."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[len(text) - (longest - 1) // 2 :]}"
    return text.replace("$", r"\$")


def legend_height(names: Sequence[str]) -> float:
    """Return the inches that `legend` takes for `names`."""
    return 0.16 * -(-len(names) // _abreast(names)) + 0.1


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Write one legend of all curves below the panels, where it covers none of them."""
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault((name, handle.get_color(), handle.get_marker()), handle)  # cut names may be alike
    if found:
        options = {"loc": "outside lower center", "frameon": False, "handlelength": 2.6, "columnspacing": 1.2}
        names = [name for name, *_ in found]
        figure.legend(found.values(), names, ncols=_abreast(names), **options)


def _abreast(names: Sequence[str]) -> int:
    """Return how many names fit beside one another in a column's width."""
    longest = min(28, max(map(len, names), default=0))
    return max(1, min(len(names), int(60 / (longest + 9))))


def logarithmic(axis: Axis) -> None:
    """Make `axis` logarithmic, after what is on it is drawn; ticks are numbers people read: 50, 2 M, 3 x 10^13."""
    from matplotlib import ticker

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    if high < 8 * low:
        axis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
    elif high < 500 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        return
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: readable(value)))


def readable(value: float) -> str:
    """Return a number as a tick says it: 0.5, 20,000, 4 M, 3 x 10^13."""
    if 1e-3 <= abs(value) < 1e5 or value == 0:
        return f"{value:,g}"
    if 1e5 <= abs(value) < 1e11:
        return f"{value / 1e6:,g} M"
    mantissa, exponent = f"{value:.3e}".split("e")
    times = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return f"${times}10^{{{int(exponent)}}}$"
