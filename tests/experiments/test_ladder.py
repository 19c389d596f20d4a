"""The ladder: every run could start, those with a published figure are there, and one trains and is scored."""

import pytest

from experiments import ladder
from research.config import check
from research.models.ngram import Ngram
from research.report import records, runs
from research.train.optimizer import learning_rate
from research.types import UserError
from tests.test_experiments import local  # noqa: F401 (a fixture)


@pytest.mark.parametrize("name", ladder.RUNS)
def test_a_run_could_start(name, local, monkeypatch):  # noqa: F811
    (local / "ptb").mkdir()
    run = ladder.run_of(name, 3)
    check(run)
    assert (run.name, run.seed) == (name, 3)
    assert run.data.order == ("stream" if name.endswith(("lm", "small", "medium", "lstm")) else "shuffled")


def test_what_has_a_published_figure_is_on_the_ladder():
    figures = records.published(records.read(), "test", "perplexity")
    assert len(figures) == 8 and figures.keys() <= ladder.RUNS.keys()


def test_sgd_of_zaremba_holds_its_rate_for_four_epochs_and_halves_it_nine_times():
    run = ladder.run_of("ptb_lstm_small", 0)
    epoch = ladder.EPOCH // 400
    rate = learning_rate(run.schedule, run.optimizer.learning_rate, 13 * epoch)
    rates = [float(rate(i * epoch + 5)) / 20 for i in range(13)]
    assert rates == pytest.approx([1.0] * 4 + [0.5**i for i in range(1, 10)])


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
