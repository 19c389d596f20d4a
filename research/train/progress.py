"""How far long work has come: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

EVERY = 10.0  # seconds between lines of a log
LIVE = 0.2  # seconds between drawings of the bar
WINDOW = 32  # updates that the rate is taken over: compilation and pauses are soon forgotten


class Progress:
    """Shows progress on standard error; whatever goes wrong with that never disturbs the work.

    Colours and the bar are left out where the terminal is dumb or not one; NO_COLOR leaves out the colours.

    Args:
        total: What `update` counts up to; None where it is unknown.
        unit: What is counted, in the singular: step, document.
        description: What is going on.
    """

    def __init__(self, total: int | None, unit: str, description: str):
        self._total, self._unit, self._description = total, unit, description
        self._seen: collections.deque[tuple[float, float]] = collections.deque(maxlen=WINDOW)  # (time, done)
        self._shown = time.monotonic()
        self._text: str | None = None  # not yet shown
        self._bar = self._task = None

    def __enter__(self) -> Progress:
        try:
            if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
                self._open()
        except Exception:
            self._bar = None
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._bar:
                self._bar.refresh()
                self._bar.stop()
            elif self._text:
                self._line()
        except Exception:
            pass

    def update(self, done: float, **fields: Any) -> None:
        """Show that `done` of the total is done, and numbers or words beside it; `x_per_s` reads as x/s."""
        try:
            now = time.monotonic()
            self._seen.append((now, done))
            self._text = describe(self._total, self._unit, list(self._seen), fields)
            late = now - self._shown >= (LIVE if self._bar else EVERY) or done == self._total
            if self._bar:
                self._bar.update(self._task, completed=done, text=self._text, refresh=late)
            elif late:
                self._line()
            self._shown = now if late else self._shown
        except Exception:
            pass

    def note(self, text: str) -> None:
        """Print a line of `text`, above the bar where there is one."""
        try:
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)
        except Exception:
            pass

    def _line(self) -> None:
        print(f"{self._description}: {self._text}", file=sys.stderr, flush=True)
        self._text = None

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        name = TextColumn("{task.description}", markup=False)
        text = TextColumn("{task.fields[text]}", markup=False)
        # No thread of its own: `update` draws it, so no signal meets it halfway and no core is taken from the work.
        self._bar = Bar(name, BarColumn(24), text, console=Console(stderr=True), auto_refresh=False)
        self._task = self._bar.add_task(self._description, total=self._total, text="")
        self._bar.start()


@contextlib.contextmanager
def documents_read() -> Iterator[Callable[[str, int], None]]:
    """Yield what `data.corpus.prepare` takes to tell how far the reading of text has come."""
    with Progress(None, "document", "data") as progress:
        yield lambda what, done: progress.update(done, now=what)


def describe(total: int | None, unit: str, seen: list[tuple[float, float]], fields: dict[str, Any]) -> str:
    """Return one line of progress from the last (seconds, done) seen and the fields to show beside."""
    done = seen[-1][1]
    seconds, gained = seen[-1][0] - seen[0][0], done - seen[0][1]
    rate = gained / seconds if seconds > 0 and gained > 0 else None
    parts = [f"{done:,.0f} of {total:,} {unit}s ({done / total:.0%})" if total else f"{done:,.0f} {unit}s"]
    rates = {name: value for name, value in fields.items() if name.endswith("_per_s")}
    parts += [f"{name.replace('_', ' ')} {short(value)}" for name, value in fields.items() if name not in rates]
    parts += [f"{short(value)} {name[:-6]}/s" for name, value in rates.items() if value is not None]
    if rate and not rates:
        parts.append(f"{short(rate)} {unit}s/s")
    if rate and total and done < total:
        parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)


def short(value: Any) -> str:
    """Return a number in at most about five characters (12.3k, 4.56M), anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (limit if suffix != "k" else 1e3)
            return (f"{scaled:.3g}" if abs(scaled) < 999.5 else f"{scaled:,.0f}") + suffix
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: 12 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
