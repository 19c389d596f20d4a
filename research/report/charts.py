"""Figures of a table's scores: bars with intervals, and points over what they cost."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from research.report.drawing import COLOURS, WIDTH, drawn, legend, legend_height, logarithmic, plain, style


class Bar(NamedTuple):
    """A score with the ends of its interval, which are None where there is none."""

    name: str
    value: float
    low: float | None
    high: float | None


class Point(NamedTuple):
    """A score over a cost, which is None where it was not recorded."""

    name: str
    x: float | None
    y: float
    low: float | None
    high: float | None


def bars(panels: dict[str, list[Bar]], path: pathlib.Path, score: str, decimals: int = 2) -> None:
    """Write a panel a column of the table, a level bar a row with its interval and its value, to `path`.

    Args:
        panels: Title -> bars, from the top.
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.
        score: What the bars are of.
        decimals: Of the values beside them.
    """
    heights = [0.2 * len(found) + 0.65 for found in panels.values()]
    with drawn(path, WIDTH, sum(heights)) as figure:
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, found) in zip(axes, panels.items(), strict=True):
            places = range(len(found))
            filled = {"color": COLOURS[5], "edgecolor": "black", "linewidth": 0.6}
            axis.barh(places, [bar.value for bar in found], height=0.66, **filled)
            for place, bar in zip(places, found, strict=True):
                if bar.low is not None and bar.high is not None:
                    axis.plot([bar.low, bar.high], [place, place], color="black", linewidth=1, marker="|", markersize=5)
                end = max(bar.value, bar.high or bar.value)
                beside = {"textcoords": "offset points", "va": "center", "fontsize": 6.5}
                axis.annotate(f"{bar.value:,.{decimals}f}", (end, place), (4, 0), **beside)
            axis.set_yticks(places, [plain(bar.name) for bar in found])
            axis.invert_yaxis()
            axis.set(xlabel=score, title=plain(title))
            axis.margins(x=0.14)
            axis.spines[["top", "right"]].set_visible(False)


def scatter(
    panels: dict[str, list[Point]], path: pathlib.Path, score: str, xlabel: str, order: Sequence[str] = ()
) -> None:
    """Write a panel a column of the table, a point a row with its interval over a logarithmic cost, to `path`.

    A score without a cost (an n-gram's, which no updates train) is a level line.

    Args:
        panels: Title -> points, x above 0, or None.
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.
        score: What y is.
        xlabel: What x is.
        order: All names, so that each is drawn alike in every figure; else those that there are.
    """
    names = list(order) or list(dict.fromkeys(point.name for points in panels.values() for point in points))
    with drawn(path, WIDTH, 2.3 * len(panels) + legend_height(names)) as figure:
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (title, points) in zip(axes, panels.items(), strict=True):
            for point in points:
                drawing = style(names.index(point.name))
                if point.x is None:
                    line = {"color": drawing["color"], "linestyle": drawing["linestyle"], "linewidth": 1}
                    axis.axhline(point.y, label=plain(point.name), zorder=1, **line)
                    continue
                drawing |= {"linestyle": "none"}
                axis.plot(point.x, point.y, label=plain(point.name), markersize=6, markeredgecolor="black",
                          markeredgewidth=0.5, **drawing)  # fmt: skip
                axis.vlines(point.x, point.low or point.y, point.high or point.y, color=drawing["color"], linewidth=1.2)
            axis.margins(0.12)
            logarithmic(axis.xaxis)
            axis.set(xlabel=xlabel, ylabel=score, title=plain(title))
            axis.grid(alpha=0.25)
        legend(figure, axes)
