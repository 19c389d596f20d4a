"""The table of ways, shares and seeds: runs that could start, each another, and what is printed of them."""

import itertools
import re

from experiments import sst2_labels
from experiments.sst2_labels import SEEDS, STEPS, WAYS, cell, report
from research.config import check
from tests.test_experiments import local  # noqa: F401 (a fixture)


def test_every_cell_is_a_run_of_its_own(local, tmp_path):  # noqa: F811
    (tmp_path / "encoder").mkdir()
    keys = list(itertools.product(WAYS, STEPS, SEEDS))
    runs = [cell(*key, str(tmp_path / "encoder")) for key in keys]
    assert len({run.name for run in runs}) == len(runs) == 36
    for (way, share, seed), run in zip(keys, runs, strict=True):
        check(run)
        source = run.data.sources[0]
        assert (source.share, source.holdout_seed, run.seed) == (share, seed, seed)
        assert bool(run.init.path) == way.startswith("pre-trained")
    methods = {way: cell(way, 1.0, 0, "x").adapter.method for way in WAYS}
    assert sorted(methods.values()) == ["freeze", "full", "full", "lora"]
    # The labels of a seed are the same whatever is made of them.
    assert len({cell(way, 0.1, 1, "x").data for way in WAYS}) == 1


def test_the_table_has_means_and_intervals_over_seeds(tmp_path, capsys):
    results = [
        {"way": way, "share": share, "seed": seed, "trainable": 1000 + i, "accuracy": 0.5 + 0.1 * i + 0.01 * seed}
        | {"seconds": 100 * share + i + 10 * seed**2}
        for (i, way), share, seed in itertools.product(enumerate(WAYS), STEPS, SEEDS)
    ]
    report(results, tmp_path)
    shown = capsys.readouterr().out
    assert "1% of the labels" in shown
    for i, way in enumerate(WAYS):  # the median of the seeds with all labels
        assert re.search(rf"{way} +1,00{i} +{110 + i} ", shown)
    mean, half = 0.51, 4.302652729911275 * 0.01 / 3**0.5  # Student's t for two degrees of freedom
    assert shown.count(f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]") == len(STEPS)
    assert (tmp_path / "labels.png").stat().st_size > 1000
    assert sst2_labels.__doc__ and "labels.png" in sst2_labels.__doc__
