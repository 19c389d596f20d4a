"""A large vocabulary costs its table and what belongs to it, and nothing for each position of a batch."""

from experiments.bench_loop import LARGE, SMALL, reserved, tables
from experiments.work import Work
from tests.train.test_memory import QUICK


def test_a_large_vocabulary_takes_no_more_memory_apart_from_its_table():
    small, large = (Work("clm", length=128, width=64, layers=1, vocabulary=size) for size in (SMALL, LARGE))
    apart = [reserved(work, QUICK) - tables(work) for work in (small, large)]
    logits = 4 * large.batch * large.length * large.vocabulary  # 411 MB: what is never made as a whole
    assert apart[0] < logits / 4 and apart[1] <= 1.15 * apart[0]
