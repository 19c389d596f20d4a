"""What every figure shares: the width of a paper's column, colours, markers and dashes, and how it is written."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from research.types import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 3.4
"""Inches."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito (2008): colour-blind safe
MARKERS = "osD^vP"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def style(i: int) -> dict[str, Any]:
    """Return how curve `i` is drawn: told apart in grey by markers and dashes, 36 of them before two are alike."""
    again = i // len(COLOURS)  # the second six have the colours of the first six, and other dashes and markers
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[(i + again) % len(DASHES)],
        "marker": MARKERS[(i + again) % len(MARKERS)],
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
    with matplotlib.rc_context(fonts):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200)
