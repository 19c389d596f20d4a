"""The ladder: every run could start, those with a published figure are there, and one trains and is scored."""

import pytest

from experiments import ladder
from research.config import check
from research.models.ngram import Ngram
from research.report import cells, records, runs, significance, tables
from research.report.markdown import markdown
from research.train.optimizer import learning_rate
from research.types import UserError
from tests.conftest import ROOT
from tests.test_experiments import local  # noqa: F401 (a fixture)


@pytest.mark.parametrize("name", ladder.RUNS)
def test_a_run_could_start(name, local, monkeypatch):  # noqa: F811
    (local / "ptb").mkdir()
    run = ladder.run_of(name, 3)
    check(run)
    assert (run.name, run.seed) == (name, 3)
    assert run.data.order == ("stream" if name.endswith(("lm", "small", "medium", "tied")) else "shuffled")


def test_what_has_a_published_figure_is_on_the_ladder():
    figures = records.published(records.read(), "test", "perplexity")
    assert len(figures) == 9 and figures.keys() <= ladder.RUNS.keys()


def test_the_table_in_the_readme_is_what_report_writes_of_the_kept_logs():
    kept = runs.load(sorted((ROOT / "experiments/results/ladder").glob("ptb_*")), "test")
    grid = cells.arrange(kept, "test", rows=["name"])
    figures = {score: records.published(records.read(), "test", score) for score in grid.scores}
    table = markdown(tables.results(grid, significance.compare(grid), figures))
    assert table.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "rates", "clip"),
    [
        # Zaremba et al. (2014, section 4.1), whose losses are sums over the steps of a row.
        ("ptb_lstm_small", [20.0] * 4 + [20 * 0.5**i for i in range(1, 10)], 5 / 20),
        ("ptb_lstm_medium", [35.0] * 6 + [35 / 1.2**i for i in range(1, 34)], 5 / 35),
        ("wikitext2_lstm_tied", [20.0] * 20 + [20 / 4 ** (1 + i // 4) for i in range(20)], 0.25),
    ],
)
def test_learning_rates_fall_with_the_epochs_as_published(name, rates, clip, local):  # noqa: F811
    run = ladder.run_of(name, 0)
    corpus = ladder.WIKITEXT2 if name.startswith("wikitext2") else ladder.PTB
    epoch, epochs = -(-corpus.targets // run.data.length) / 20, len(rates)
    rate = learning_rate(run.schedule, run.optimizer.learning_rate, round(epochs * epoch))
    for at in (0.01, 0.99):
        assert [float(rate(int((i + at) * epoch))) for i in range(epochs)] == pytest.approx(rates, rel=1e-5)
    assert run.optimizer.clip == pytest.approx(clip) and run.epochs == epochs


def test_a_run_is_counted_scored_and_not_done_again(tmp_path, monkeypatch):
    (tmp_path / "ptb").mkdir()
    for split, lines in (("train", 300), ("validation", 30), ("test", 30)):
        text = "".join(f"the {'big ' * (i % 3)}dog saw cat {i % 7}\n" for i in range(lines))
        (tmp_path / "ptb" / f"{split}.txt").write_text(text)
    monkeypatch.setattr("experiments.local.FOLDER", tmp_path)
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    run = ladder.run_of("ptb_kn3", 0)
    assert isinstance(run.arch, Ngram)
    ladder.scored(run, tmp_path / "out")
    [found] = runs.load([tmp_path / "out"], "test")
    assert 1 < found.evaluated["perplexity"] < 20
    kept = tmp_path / "out" / "scores" / "test.json"
    before = kept.stat().st_mtime_ns
    ladder.scored(run, tmp_path / "out")
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(UserError):  # the folder is another run's
        ladder.scored(ladder.run_of("ptb_kn5", 0), tmp_path / "out")
