"""Figures of scores over training, from logged rows alone."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from research.report.drawing import COLOURS, WIDTH, drawn, legend, legend_height, logarithmic, plain, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from research.report.runs import Logged

AGAINST = {"steps": "updates", "tokens": "training tokens", "flops": "training FLOPs", "time": "time (min)"}


def loss_curves(runs: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """Write one panel a run to `path` (.png or .pdf): training and validation loss, and the unigram's as a line.

    Args:
        runs: Title -> rows of its metrics.jsonl.
        path: Where the figure goes; its folder is created.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(runs), figsize=(4.2 * len(runs), 3.4), squeeze=False, layout="constrained")
    for axis, (title, rows), colour in zip(axes[0], runs.items(), COLOURS * len(runs), strict=False):
        training = [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
        validation = [row for row in rows if row["kind"] == "evaluation"]
        if training:
            axis.plot(*zip(*training, strict=True), color=colour, linewidth=0.8, alpha=0.5, label="training")
        if validation:
            points = [(row["step"], row["loss"]) for row in validation]
            axis.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label="validation")
        baseline = next((row["unigram_loss"] for row in reversed(validation) if "unigram_loss" in row), None)
        if baseline is not None:
            axis.axhline(baseline, color="0.3", linestyle="--", linewidth=1, label="unigram (no context)")
        axis.set(title=title, xlabel="step", ylabel="loss (nats per scored token)")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


class Band(NamedTuple):
    """A score over training, mean and standard deviation over seeds; no band where there is one seed."""

    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    counted: bool = False  # no updates made the model, so it has one score at any x


def learning_curves(
    panels: dict[str, dict[str, Band]],
    path: pathlib.Path,
    score: str,
    against: str = "steps",
    order: Sequence[str] = (),
    crop: float = 0.0,
) -> None:
    """Write a panel a column of the table, a curve a row with its band over seeds, to `path`.

    A model that no updates made (n-grams) is a level line, one that was evaluated once a point.

    Args:
        panels: Title -> name -> band.
        path: Where the figure goes (.png, .pdf or .svg); its folder is created.
        score: What y is.
        against: What x is, a key of AGAINST.
        order: All names, so that each is drawn alike in every figure; else those that there are.
        crop: The worst last value times this is the top, above which the beginning would leave no room for the end;
            what is far apart is shown by its logarithm. 0: all is shown, evenly.
    """
    names = list(order) or list(dict.fromkeys(name for bands in panels.values() for name in bands))
    with drawn(path, WIDTH, 2.3 * len(panels) + legend_height(names)) as figure:
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (title, bands) in zip(axes, panels.items(), strict=True):
            for name, band in bands.items():
                _band(axis, name, band, style(names.index(name)))
            heights = np.concatenate([band.mean for band in bands.values()])
            axis.set(xlabel=AGAINST[against], ylabel=f"validation {score}", title=plain(title))
            top = crop * max(band.mean[-1] for band in bands.values())
            if 0 < top < np.max(heights):
                axis.set_ylim(0.94 * np.min(heights), top)
            if crop and np.min(heights) > 0 and min(top or np.inf, np.max(heights)) > 2 * np.min(heights):
                logarithmic(axis.yaxis)
            axis.grid(alpha=0.25)
        legend(figure, axes)


def band(runs: Sequence[Logged], score: str, against: str) -> Band | None:
    """Return a score over training at the steps that all `runs` were evaluated at; None where there is none.

    Runs without what x is of (FLOPs that were not recorded) have no curve.
    """
    rows = [{row["step"]: row for row in run.evaluations(score)} for run in runs]
    steps = sorted(set.intersection(*map(set, rows))) if rows else []
    places = [[_place(run, each[step], against) for step in steps] for run, each in zip(runs, rows, strict=True)]
    if not steps or any(place is None for each in places for place in each):
        return None
    values = np.array([[each[step][score] for step in steps] for each in rows], np.float64)
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
    counted = not any(run.updated for run in runs)
    return Band(np.mean(np.array(places, np.float64), axis=0), values.mean(axis=0), spread, counted)


def _place(run: Logged, row: dict[str, Any], against: str) -> float | None:
    if against == "flops":
        each = run.facts.get("flops_per_step")
        return each * row["step"] if each else None if row["step"] else 0.0
    value = row.get({"steps": "step", "tokens": "tokens", "time": "elapsed"}[against])
    if not row["step"] and value is None:  # tokens of a model that was read from a file
        return 0.0
    return value / 60 if against == "time" and value is not None else value


def _band(axis: Axes, name: str, band: Band, drawing: dict[str, Any]) -> None:
    if band.counted:
        line = {"color": drawing["color"], "linestyle": drawing["linestyle"], "linewidth": 1}
        axis.axhline(band.mean[0], label=plain(name), **line)
        return
    marks = max(1, len(band.x) // 8)
    axis.plot(band.x, band.mean, markersize=3.5, markevery=marks, linewidth=1.2, label=plain(name), **drawing)
    if np.any(band.spread):
        low, high = band.mean - band.spread, band.mean + band.spread
        axis.fill_between(band.x, low, high, color=drawing["color"], alpha=0.2, linewidth=0)
