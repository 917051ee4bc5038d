"""Checks of clocks that every rank of a healthy group makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smoes_sim.distributed.clock import VARIABLE, clock_of
from smoes_sim.distributed.group import RankGroup


def check_clocks(group: RankGroup, folder: Path) -> None:
    starts_are_equal_and_later_each_time(group, {})
    named = folder / "clock"
    if group.place.rank == 0:
        named.write_bytes(b"\1" * 1000)  # what an earlier run left
    group.meet("have a clock file", "")
    starts_are_equal_and_later_each_time(group, {VARIABLE: str(named)})
    several_nodes_share_no_memory(group)


def starts_are_equal_and_later_each_time(group: RankGroup, environment: dict[str, str]) -> None:
    with clock_of(group, environment) as clock:
        assert clock.kind == "shared memory"
        starts = [clock.start() for _ in range(4)]
        assert clock.seconds(starts[-1], clock.mark()) >= 0
    everyones = group.gather(np.array(starts, dtype=np.float64))
    assert (everyones == everyones[0]).all()
    assert (np.diff(starts) > 0).all()


def several_nodes_share_no_memory(group: RankGroup) -> None:
    nodes, group.node_of_rank = group.node_of_rank, (0, 0, 1, 1)
    with clock_of(group, {}) as clock:
        assert clock.kind == "barrier"
        assert clock.seconds(clock.start(), clock.mark()) >= 0
    group.node_of_rank = nodes
