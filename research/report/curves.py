"""Figures of loss against steps, from logged rows alone."""

from __future__ import annotations

import pathlib
from typing import Any

from research.report.drawing import COLOURS


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
