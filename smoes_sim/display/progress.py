"""How far long work has come: a bar on a terminal, a line in a notebook, one line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Progress = Literal["auto", "lines", "none"]
"""``auto``: on a terminal or in a notebook; ``lines``: elsewhere too, a line a minute on stderr; ``none``: nowhere."""
_INTERVAL = 60.0
"""Seconds between two lines where there is no terminal."""
_WORTH_SAYING = 2.0
"""Seconds of work below which nothing is printed where there is no terminal."""
_PATIENCE = 10.0
"""Seconds after which parts of the first unit tell how long the work will take."""
_REFRESH = 0.5
"""Seconds between two updates of a line in a notebook."""


@contextmanager
def progress(what: str, total: int, mode: Progress = "auto") -> Iterator[Callable[[float], None]]:
    """A function that takes the number of finished units, parts of one included, and shows it on stderr.

    Args:
        what: Plural of the unit, such as ``forward passes``.
        total: Number of units in all.
        mode: Where to show it.
    """
    if mode == "none" or total < 1:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(what, total) as advance:
            yield advance
    elif "ipykernel" in sys.modules:
        yield from _in_notebook(what, total)
    elif mode == "lines":
        yield from _in_lines(what, total)
    else:
        yield lambda _: None


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _in_notebook(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """One line that is overwritten, and removed at the end."""
    began = last = time.monotonic()

    def advance(done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REFRESH:
            last = now
            sys.stderr.write(f"\r{_line(what, done, total, now - began):<78}")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        sys.stderr.write(f"\r{'':<78}\r")


def _in_lines(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """After the first unit, or a few seconds, what is to do and roughly how long it takes, then a line a minute."""
    began = time.monotonic()
    ended = threading.Event()
    done_so_far, is_announced = 0.0, False

    def advance(done: float) -> None:
        nonlocal done_so_far, is_announced
        done_so_far, elapsed = done, time.monotonic() - began
        if is_announced or not done or (done < 1 and elapsed < _PATIENCE):
            return
        is_announced, remaining = True, elapsed / done * (total - done)
        if remaining > _WORTH_SAYING:
            _say(f"{total} {what}, {duration_in_words(remaining)} to go")

    def report() -> None:
        while not ended.wait(_INTERVAL):
            _say(_line(what, done_so_far, total, time.monotonic() - began))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def _line(what: str, done: float, total: int, elapsed: float) -> str:
    left = f", {duration_in_words(elapsed / done * (total - done))} to go" if done else ""
    return f"{int(done)} of {total} {what}{left}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def duration_in_words(seconds: float) -> str:
    """A rough time to wait.

    Example:
        >>> duration_in_words(42), duration_in_words(600), duration_in_words(9000)
        ('about 40 s', 'about 10 min', 'about 2.5 h')
    """
    if seconds < 90:
        return f"about {max(1, round(seconds / 10) * 10 if seconds >= 10 else round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
