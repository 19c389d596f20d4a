"""Progress is a bar on a terminal, few lines in a log, and never an error."""

import os
import pty
import re
import subprocess
import sys

import pytest

from research.train import progress
from research.train.progress import Progress, describe, duration, short


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests turn by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_how_far_how_fast_and_how_long():
    seen = [(0.0, 100), (10.0, 200)]
    text = describe(1000, "step", seen, {"tokens": 51_200, "loss": 2.34567, "tokens_per_s": 5120.0})
    assert text == "200 of 1,000 steps (20%), tokens 51.2k, loss 2.346, 5,120 tokens/s, 1 min 20 s left"
    assert describe(None, "document", seen, {}) == "200 documents, 10 documents/s"
    assert describe(10, "step", [(0.0, 10)], {"loss": None, "tokens_per_s": None}) == "10 of 10 steps (100%), loss None"


def test_numbers_and_times_are_short():
    found = [short(x) for x in (3, 1234, 12345, 999_600, 5_600_000, 2.5e9, 0.00012, "word", True)]
    assert found == ["3", "1,234", "12.3k", "1,000k", "5.6M", "2.5G", "0.00012", "word", "True"]
    assert [duration(x) for x in (0.4, 59, 61, 7260, 200_000)] == ["0 s", "59 s", "1 min 01 s", "2 h 01 min", "2 d 7 h"]


def test_a_log_gets_few_lines_and_always_the_last(clock, capsys):
    with Progress(1000, "step", "train") as bar:
        for done in range(0, 1001):
            clock[0] = done / 20  # 50 seconds in all
            bar.update(done, loss=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("train: 1,000 of 1,000 steps (100%)")
    assert "left" in lines[0] and "20 steps/s" in lines[0]
    assert not re.search(r"[^\x20-\x7e]", "".join(lines))


def test_an_end_before_the_total_is_shown(clock, capsys):
    with pytest.raises(KeyboardInterrupt), Progress(1000, "step", "train") as bar:
        bar.update(1)
        bar.update(7)
        bar.note("a word")
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines() == ["a word", "train: 7 of 1,000 steps (1%)"]


def test_the_rate_forgets_a_slow_start(clock):
    bar = Progress(10_000, "step", "train")
    bar.update(0)
    for done in range(1, 101):
        clock[0] = 100 + done  # compiled for 100 s
        bar.update(done)
    assert "1 steps/s" in bar._text and "2 h 45 min left" in bar._text


def test_nothing_is_ever_raised(monkeypatch):
    with Progress(0, "step", "x") as bar:
        bar.update(0)
        bar.update("nonsense", loss=object())
        monkeypatch.setattr(sys, "stderr", None)
        bar.note("lost")
        bar.update(3)


@pytest.mark.parametrize(
    ("extra", "bar", "colour"), [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)]
)
def test_on_a_terminal(extra, bar, colour):
    code = (
        "from research.train.progress import Progress\n"
        "with Progress(4, 'step', 'train [x]') as p:\n"
        "    for i in range(5): p.update(i, loss=[i])\n"
        "    p.note('note [y]')\n"
    )
    ours, theirs = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**inherited, "TERM": "xterm-256color", "COLUMNS": "120", **extra}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    try:
        while block := os.read(ours, 65536):
            output += block
    except OSError:  # Linux says so when the other end is closed
        pass
    assert process.wait() == 0
    text = output.decode()
    assert "train [x]" in text and "4 of 4 steps (100%)" in text and "note [y]" in text
    assert ("━" in text) == bar
    assert (re.search(r"\x1b\[[\d;]*[3-9]\d[\d;]*m", text) is not None) == colour
