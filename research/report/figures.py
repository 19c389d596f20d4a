"""Figures of results: confusions, calibration, and scores with intervals; as wide as a column of a paper."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from research.report.calibration import calibration
from research.report.drawing import COLOURS, WIDTH, drawn, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float, float | None, float | None]


def confusion(matrix: Sequence[Sequence[int]] | np.ndarray, names: Sequence[str], path: pathlib.Path) -> None:
    """Write a confusion matrix to `path`: shades are shares of each gold label, numbers are examples.

    Args:
        matrix: int[n, n], a row a gold label, a column a predicted one.
        names: Of the n labels.
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.

    Raises:
        UserError: `path` has another suffix.
        ValueError: `matrix` is not a row and a column for each name.
    """
    matrix = np.asarray(matrix)
    n = len(names)
    if matrix.shape != (n, n):
        raise ValueError(f"a confusion matrix of {n} labels is {n} x {n}, but this one is {matrix.shape}")
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    side = max(WIDTH, 0.16 * n + 1)  # so that names of many labels can still be told apart
    with drawn(path, side, side * 0.9) as figure:
        axis = figure.subplots()
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if n <= 12:
            size = 8 if n <= 6 else 6
            for (row, column), count in np.ndenumerate(matrix):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size)
        long = n > 6 or max(map(len, names)) * n > 36
        axis.set_xticks(range(n), names, rotation=90 if long else 0)
        axis.set_yticks(range(n), names)
        axis.set(xlabel="predicted", ylabel="gold")
        figure.colorbar(image, ax=axis, label="share of the gold label", shrink=0.8)


def reliability(probabilities: np.ndarray, gold: np.ndarray, path: pathlib.Path) -> None:
    """Write a reliability diagram to `path`: accuracy over confidence, and how many predictions each bin has.

    Guo et al. (2017), figure 1; the title is the expected calibration error.

    Args:
        probabilities: float[N, n].
        gold: int[N], ids of labels.
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.

    Raises:
        UserError: `path` has another suffix.
    """
    probabilities = np.asarray(probabilities, np.float64)
    found = calibration(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold)
    left, width = found.edges[:-1], np.diff(found.edges)
    with drawn(path, WIDTH, WIDTH) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        accuracy = np.nan_to_num(found.accuracy)
        upper.bar(left, accuracy, width, align="edge", color=COLOURS[5], edgecolor="black", linewidth=0.6)
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
        dots = {"color": "white", "markeredgecolor": "black", "markeredgewidth": 0.6, "markersize": 3.5}
        upper.plot(found.confidence, found.accuracy, "o", label="at mean confidence", **dots)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"expected calibration error {found.error:.3f}")
        upper.legend(frameon=False, loc="upper left")
        lower.bar(left, found.counts, width, align="edge", color="0.6", edgecolor="black", linewidth=0.6)
        lower.set(xlabel="confidence", ylabel="examples")


def intervals_plot(
    series: dict[str, list[Point]],
    path: pathlib.Path,
    xlabel: str = "share of the labels",
    ylabel: str = "score",
) -> None:
    """Write curves with their intervals as bands to `path`, over a logarithmic axis.

    Args:
        series: Name -> (x, mean, low, high) for each point; x above 0, shares of 1 where all are at most 1; low and
            high None where a mean has no interval (one run).
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.
        xlabel: What x is.
        ylabel: What the mean is of.

    Raises:
        UserError: `path` has another suffix.
        ValueError: An x is not above 0.
    """
    places = sorted({point[0] for points in series.values() for point in points})
    if places and places[0] <= 0:
        raise ValueError(f"x is {places[0]:g}, but a logarithmic axis begins above 0")
    with drawn(path, WIDTH, WIDTH * 0.75) as figure:
        axis = figure.subplots()
        for i, (name, points) in enumerate(series.items()):
            _curve(axis, name, sorted(points, key=lambda point: point[0]), i)
        axis.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
        shares = not places or places[-1] <= 1
        axis.set_xticks(places, [f"{100 * x:g} %" if shares else f"{x:g}" for x in places])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)


def _curve(axis: Axes, name: str, points: list[Point], i: int) -> None:
    drawing = style(i)
    x, mean, low, high = np.array(points, np.float64).T  # None becomes nan, which is not drawn
    axis.plot(x, mean, markersize=4, label=name, **drawing)
    axis.fill_between(x, low, high, color=drawing["color"], alpha=0.2, linewidth=0)
    axis.vlines(x, low, high, color=drawing["color"], linewidth=1)  # all that shows of a lone interval
