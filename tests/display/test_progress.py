"""What people see of long work where there is no terminal."""

from __future__ import annotations

import itertools

from smoes_sim.display import progress as module
from smoes_sim.display.progress import progress


def test_nothing_is_printed_of_short_work(capsys):
    with progress("points", 2, "lines") as advance:
        advance(1)
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_the_first_unit_tells_how_long_the_rest_takes(capsys, monkeypatch):
    clock = itertools.chain([0.0, 5.0], itertools.repeat(10.0))  # the start, then the end of the first unit
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("points", 9, "lines") as advance:
        advance(1)
        advance(2)
    assert capsys.readouterr().err == "9 points, about 40 s to go\n"  # 8 more of 5 s


def test_parts_of_the_first_unit_tell_it_only_after_some_seconds(capsys, monkeypatch):
    clock = itertools.chain([0.0, 5.0], itertools.repeat(12.0))  # the start, then a quarter and half of the first unit
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("offers", 2, "lines") as advance:
        advance(0.25)
        assert capsys.readouterr().err == ""
        advance(0.5)
        advance(0.75)
    assert capsys.readouterr().err == "2 offers, about 40 s to go\n"  # 1.5 more of 24 s


def test_a_line_comes_at_every_interval(monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    written = module.threading.Event()
    lines: list[str] = []
    monkeypatch.setattr(module, "_say", lambda text: (lines.append(text), written.set()))
    with progress("points", 4, "lines") as advance:
        advance(1)
        assert written.wait(60)
    assert all(" of 4 points" in line for line in lines)


def test_a_library_call_is_silent_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(module, "_WORTH_SAYING", -1.0)
    with progress("points", 4) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
