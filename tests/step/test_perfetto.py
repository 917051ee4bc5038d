"""Counters of the timeline show what links do."""

from __future__ import annotations

import numpy as np
import pytest
from build_from import star, topology

from smoes_sim.step.perfetto import chrome_trace
from smoes_sim.step.timeline import StepTime


def counters(*use: tuple[float, list[float]], duration: float) -> dict[str, list[tuple[float, float]]]:
    """Microseconds and percent of each counter; 3 ranks on a star, links in and out of rank 0, 1, 2."""
    built = topology(star(3))
    rows = tuple((moment, np.array(shares)) for moment, shares in use)
    step = StepTime(**dict.fromkeys(StepTime.__dataclass_fields__, ()) | {"duration": duration, "link_use": rows})
    found: dict[str, list[tuple[float, float]]] = {}
    for event in chrome_trace(step, built)["traceEvents"]:
        if event["ph"] == "C":
            found.setdefault(event["name"], []).append((event["ts"], event["args"]["%"]))
    return found


def test_links_of_equal_use_share_a_counter_and_idle_links_have_none():
    # out, in, out, in, out, in: all three send equally for 1 s of 2 s, rank 2 alone receives
    found = counters((0.0, [0.5, 0, 0.5, 0, 0.5, 1.0]), (1.0, [0.0] * 6), duration=2.0)
    assert found == {
        "switch -> node2.device0": [(0, 100), (1e6, 0), (2e6, 0)],
        "node*.device0 -> switch (x3)": [(0, 50), (1e6, 0), (2e6, 0)],
    }


def test_links_that_are_as_busy_at_other_times_have_counters_of_their_own():
    found = counters((0.0, [1.0, 0, 0, 0, 0, 0]), (1.0, [0, 0, 1.0, 0, 0, 0]), (2.0, [0, 0, 0, 0, 1.0, 0]), duration=3.0)
    assert len(found) == 3
    assert all(name.startswith(f"node{rank}.") for rank, name in enumerate(found))


def test_a_step_without_recorded_links_has_no_counter():
    assert counters(duration=1.0) == {}


def test_the_end_of_a_step_closes_the_counters():
    ((_, points),) = counters((0.0, [0, 0, 0, 0.25, 0, 0]), duration=4.0).items()
    assert points == [(0, 25), (pytest.approx(4e6), 25)]
