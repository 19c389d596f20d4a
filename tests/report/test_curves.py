"""The figure of loss curves shows what the rows say."""

import numpy as np
import pytest

from research.report.curves import Band, learning_curves, loss_curves

PNG = b"\x89PNG\r\n\x1a\n"


def rows(baseline=None):
    """Rows as metrics.jsonl holds them: three of training between two evaluations, and an end."""
    unigram = {} if baseline is None else {"unigram_loss": baseline}
    return [
        {"kind": "evaluation", "step": 0, "loss": 6.5, **unigram},
        *({"kind": "train", "step": step, "loss": 6.0 - step / 10} for step in (1, 2, 3)),
        {"kind": "evaluation", "step": 3, "loss": 5.5, **unigram},
        {"kind": "end", "step": 3},
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn: they are kept from being closed, so that they can be looked at."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", drawn.append)
        yield drawn
    for figure in drawn:
        pyplot.close(figure)


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_one_panel_a_run_with_its_losses_and_the_baseline(figures, tmp_path):
    path = tmp_path / "new" / "loss.png"
    loss_curves({"masked": rows(5.9), "causal": rows(4.8), "plain": rows()}, path)
    assert path.read_bytes().startswith(PNG) and path.stat().st_size > 5000
    (figure,) = figures
    assert [axis.get_title() for axis in figure.axes] == ["masked", "causal", "plain"]
    for axis, baseline in zip(figure.axes, (5.9, 4.8, None), strict=True):
        found = lines(axis)
        np.testing.assert_allclose(found["training"].get_xydata(), [[1, 5.9], [2, 5.8], [3, 5.7]])
        np.testing.assert_allclose(found["validation"].get_xydata(), [[0, 6.5], [3, 5.5]])
        assert axis.get_xlabel() == "step" and "nats" in axis.get_ylabel()
        shown = [text.get_text() for text in axis.get_legend().get_texts()]
        if baseline is None:
            assert shown == ["training", "validation"] and len(found) == 2
        else:
            assert shown == ["training", "validation", "unigram (no context)"]
            assert set(found["unigram (no context)"].get_ydata()) == {baseline}


@pytest.mark.parametrize("crop", [100.0, 0.0])
def test_shares_are_shown_evenly_and_perplexities_by_their_logarithm(tmp_path, monkeypatch, crop):
    called = []
    monkeypatch.setattr("research.report.curves.logarithmic", called.append)
    band = Band(np.array([0.0, 100.0, 200.0]), np.array([0.02, 0.4, 0.5]), np.zeros(3))
    learning_curves({"": {"lstm": band}}, tmp_path / "curves.png", "score", crop=crop)
    assert len(called) == (crop > 0)


def test_many_runs_and_runs_without_evaluation_are_drawn(figures, tmp_path):
    runs = {f"run {i}": [row for row in rows() if row["kind"] == "train"] for i in range(8)}  # more than colours
    loss_curves(runs, tmp_path / "loss.pdf")
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")
    assert [list(lines(axis)) for axis in figures[0].axes] == [["training"]] * 8
