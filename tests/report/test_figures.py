"""Figures of results show what they were given, in any format, without a display."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from research.report.calibration import calibration
from research.report.figures import WIDTH, confusion, intervals_plot, reliability
from research.types import UserError

STARTS = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF", ".svg": b"<?xml"}
SERIES = {
    "pre-trained": [(1.0, 0.9, 0.88, 0.92), (0.01, 0.7, 0.6, 0.8), (0.1, 0.8, 0.75, 0.85)],
    "from scratch": [(0.01, 0.5, 0.4, 0.6), (0.1, 0.6, None, None), (1.0, 0.8, 0.7, 0.9)],
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, to be looked at."""
    from matplotlib.figure import Figure

    written, savefig = [], Figure.savefig

    def keep(figure, *arguments, **options):
        written.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written


@pytest.mark.parametrize("suffix", STARTS)
def test_every_figure_in_every_format(suffix, tmp_path):
    folder = tmp_path / "new"
    confusion([[3, 1], [0, 2]], ["no", "yes"], folder / f"confusion{suffix}")
    reliability(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), folder / f"reliability{suffix}")
    intervals_plot(SERIES, folder / f"intervals{suffix}")
    for name in ("confusion", "reliability", "intervals"):
        written = (folder / f"{name}{suffix}").read_bytes()
        assert written.startswith(STARTS[suffix]) and len(written) > 3000
        assert b"/Type3" not in written  # fonts that some venues refuse


def test_a_confusion_shades_shares_and_writes_counts(figures, tmp_path):
    confusion([[30, 10], [0, 0]], ["no", "yes"], tmp_path / "confusion.png")
    (figure,) = figures
    assert figure.get_figwidth() == WIDTH
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    shown = {text.get_position(): text for text in axis.texts}
    assert {place: text.get_text() for place, text in shown.items()} == {
        (0, 0): "30", (1, 0): "10", (0, 1): "0", (1, 1): "0"
    }  # fmt: skip
    assert shown[0, 0].get_color() == "white" and shown[1, 0].get_color() == "black"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["no", "yes"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "gold")


def test_a_confusion_of_many_labels_has_room_and_no_numbers(figures, tmp_path):
    confusion(np.eye(40, dtype=int), [f"label {i}" for i in range(40)], tmp_path / "confusion.png")
    assert figures[0].get_figwidth() > WIDTH and not figures[0].axes[0].texts
    with pytest.raises(ValueError, match="2 x 2"):
        confusion(np.eye(3), ["a", "b"], tmp_path / "confusion.png")


def test_reliability_shows_the_bins(figures, tmp_path):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.5] * 3, size=500)
    gold = generator.integers(0, 3, 500)
    reliability(probabilities, gold, tmp_path / "reliability.png")
    found = calibration(probabilities.max(1), probabilities.argmax(1) == gold)
    upper, lower = figures[0].axes
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches], np.nan_to_num(found.accuracy))
    assert [bar.get_height() for bar in lower.patches] == found.counts.tolist()
    assert upper.get_title() == f"expected calibration error {found.error:.3f}"


def test_intervals_are_drawn_in_order_over_a_logarithmic_axis(figures, tmp_path):
    intervals_plot(SERIES, tmp_path / "intervals.png", ylabel="accuracy")
    (axis,) = figures[0].axes
    assert axis.get_xscale() == "log" and axis.get_ylabel() == "accuracy"
    first, second = axis.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [[0.01, 0.7], [0.1, 0.8], [1, 0.9]])
    assert first.get_linestyle() != second.get_linestyle() and first.get_marker() != second.get_marker()  # in grey, too
    assert to_rgb(first.get_color()) != to_rgb(second.get_color())
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1 %", "10 %", "100 %"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(SERIES)
    bars = [segment for lines in axis.collections for segment in getattr(lines, "get_segments", list)()]
    assert [[0.1, 0.75], [0.1, 0.85]] in [bar.tolist() for bar in bars]


def test_intervals_over_counts(figures, tmp_path):
    series = {"a": [(100, 1.0, None, None)], "b": [(1000, 2.0, 1.0, 3.0)]}
    intervals_plot(series, tmp_path / "intervals.png", xlabel="examples")
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()] == ["100", "1000"]
    with pytest.raises(ValueError, match="above 0"):
        intervals_plot({"a": [(0, 1.0, None, None)]}, tmp_path / "intervals.png")


def test_another_suffix_is_a_mistake_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.xyz: a figure is \.png, \.pdf or \.svg"):
        intervals_plot(SERIES, tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_scores_and_figures_import_nothing_heavy_before_they_are_used():
    modules = [f"research.tasks.{name}" for name in ("counts", "label_scores", "entities", "text_scores")]
    heavy = {"jax", "sklearn", "scipy", "sacrebleu", "rouge_score", "nltk", "matplotlib", "transformers"}
    modules += [f"research.report.{name}" for name in ("figures", "intervals", "write")]
    code = f"import sys, {', '.join(modules)}; print(*sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
