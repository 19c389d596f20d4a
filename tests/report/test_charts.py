"""Figures of a report show the means, the spread and the costs that the runs have."""

import numpy as np
import pytest

from research.report import curves, gallery, runs
from research.report.cells import arrange
from research.report.charts import Bar, Point, bars, scatter
from research.report.drawing import DASHES, MARKERS, WIDTH, plain, readable, style
from tests.report import made
from tests.report.test_figures import figures  # noqa: F401 (a fixture)


def test_a_band_is_mean_and_deviation_over_seeds_at_shared_steps(tmp_path):
    folders = [made.run(tmp_path / f"s{seed}", seed=seed, loss=4 + seed / 10) for seed in range(3)]
    found = curves.band(runs.load(folders, "test"), "loss", "steps")
    assert found.x.tolist() == list(range(0, 2001, 200))
    rows = [made.rows(4 + seed / 10) for seed in range(3)]
    last = [each[-2]["loss"] for each in rows]
    assert (found.mean[-1], found.spread[-1]) == pytest.approx((np.mean(last), np.std(last, ddof=1)))
    assert curves.band(runs.load(folders[:1], "test"), "loss", "tokens").x[-1] == 2000 * 700
    assert curves.band(runs.load(folders, "test"), "loss", "time").x[-1] == pytest.approx(845 / 60)
    assert curves.band(runs.load(folders, "test"), "loss", "flops").x[-1] == pytest.approx(2000 * 2.5e10)


def test_without_flops_or_the_score_there_is_no_curve(tmp_path):
    [run] = runs.load([made.run(tmp_path / "a", flops=None)], "test")
    assert curves.band([run], "loss", "flops") is None and curves.band([run], "bleu", "steps") is None
    (run.folder / "metrics.jsonl").write_text('{"kind": "evaluation", "loss": 4.0}\n')  # at what step is not known
    assert curves.band(runs.load([run.folder], "test"), "loss", "steps") is None
    [counted] = runs.load([made.run(tmp_path / "kn", trained=False, flops=None)], "test")
    level = curves.band([counted], "loss", "flops")
    assert level.x.tolist() == [0] and level.counted and not curves.band([run], "loss", "steps").counted


def test_captions_say_what_lines_and_bands_are_and_what_was_sampled(tmp_path):
    made.ladder(tmp_path)
    for seed in range(3):
        made.change(tmp_path / f"lstm-ptb-{seed}", "run.json", resolved__evaluate_rows=256)
    found = runs.load(sorted(tmp_path.iterdir()), "test")
    captions = [picture.caption for picture in gallery.pictures(arrange(found, "test"), "perplexity", "flops")]
    assert captions[0] == (
        "perplexity on the validation split (lstm on 256 rows of it), against training FLOPs; "
        "bands: standard deviation over seeds; level: models that no updates made"
    )
    assert captions[1] == "perplexity on the test split; lines: standard deviation over seeds"
    assert "seeds" not in gallery.pictures(arrange(found[:1], "test"), "perplexity", "steps")[1].caption
    [curves_of_counted, *_] = gallery.pictures(arrange(found[:2], "test"), "perplexity", "steps")
    assert [run.id for run in found[:2]] == ["kn3-ptb-0", "kn5-ptb-0"] and curves_of_counted.draw is None
    assert captions[3].endswith("seeds; level: models without recorded training FLOPs") and "level" not in captions[2]


def test_curves_have_bands_and_what_is_counted_is_level(figures, tmp_path):  # noqa: F811
    x = np.arange(5.0)
    panels = {"ptb": {
        "lstm": curves.Band(x, 100 + 900 * np.exp(-2 * x), np.full(5, 2.0)),
        "kn5": curves.Band(x[:1], np.array([141.2]), np.zeros(1), counted=True),
        "once": curves.Band(x[-1:], np.array([130.0]), np.zeros(1)),
    }}  # fmt: skip
    curves.learning_curves(panels, tmp_path / "c.pdf", "perplexity", order=["kn5", "lstm", "once"], crop=2.5)
    [axis] = figures[0].axes
    curve, level, point = axis.get_lines()
    np.testing.assert_allclose(curve.get_xydata()[:, 0], x)
    assert point.get_xydata().tolist() == [[4, 130]] and point.get_marker() != "None"  # a trained model is no line
    assert set(level.get_ydata()) == {141.2} and len(axis.collections) == 1
    assert axis.get_ylim()[1] == pytest.approx(2.5 * 141.2) and axis.get_title() == "ptb"
    assert level.get_color() == style(0)["color"] and curve.get_marker() == style(1)["marker"]
    assert figures[0].get_figwidth() == WIDTH
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["lstm", "kn5", "once"]


def test_bars_and_points(figures, tmp_path):  # noqa: F811
    bars({"": [Bar("a", 100.0, 98.0, 102.0), Bar("b $x$", 50.0, None, None)]}, tmp_path / "b.pdf", "perplexity", 1)
    [axis] = figures[0].axes
    assert [bar.get_width() for bar in axis.patches] == [100, 50] and axis.yaxis_inverted()
    assert [text.get_text() for text in axis.texts] == ["100.0", "50.0"]
    assert axis.get_yticklabels()[1].get_text() == r"b \$x\$"
    points = [Point("a", 1e6, 100.0, 98.0, 102.0), Point("kn", None, 140.0, None, None)]
    points.append(Point("b", 4e6, 90.0, None, None))
    scatter({"": points}, tmp_path / "s.pdf", "perplexity", "parameters")
    [axis] = figures[1].axes
    assert axis.get_xscale() == "log" and [len(line.get_xydata()) for line in axis.get_lines()] == [1, 2, 1]
    assert all(b"/Type3" not in path.read_bytes() for path in tmp_path.iterdir())


def test_curves_can_be_told_apart_in_grey():
    drawn = [style(i) for i in range(66)]
    points = [(each["marker"], each["markerfacecolor"] == "white") for each in drawn]
    assert len(set(points[:22])) == 22 == 2 * len(MARKERS)
    assert len({(point, str(each["linestyle"])) for point, each in zip(points, drawn, strict=True)}) == 66
    assert len({str(each["linestyle"]) for each in drawn[:6]}) == 6 == len(DASHES)


def test_ticks_and_names_are_readable():
    assert [readable(v) for v in (0.5, 20_000, 4e6, 1.5e6, 1e15, 3e13)] == [
        "0.5", "20,000", "4 M", "1.5 M", "$10^{15}$", r"$3\times10^{13}$"
    ]  # fmt: skip
    assert plain("a" * 20 + "b" * 20) == "a" * 14 + "…" + "b" * 13 and len(plain("x" * 40, 9)) == 9
