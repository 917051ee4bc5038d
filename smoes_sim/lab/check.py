"""Does a lab keep the rates of its file? All links busy at once, compared with max-min fair shares of the rates as built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.lab.iproute import MTU
from smoes_sim.lab.lab import Lab
from smoes_sim.lab.probe import flows_under_way
from smoes_sim.network import max_min_rates
from smoes_sim.topology import Router, Topology, find_topology

TOLERANCE = 0.03
"""Largest relative error of the rate of a flow in a usable lab."""
_PERIODS = 4
"""Number of measurements; the first within tolerance ends the check, as rates settle only when all buffers are full."""
_SHORTEST = 0.5
_FRAMES = 100
"""Shortest duration of a measurement: seconds, and frames of the slowest flow."""
_ALONE = 3
"""Largest number of flows that are measured again alone because they missed their rate."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabCheck:
    """Fair rates and measured rates.

    Attributes:
        pairs: Ranks (source, destination) of flows that together cross every link in use, F.
        promised: Max-min fair rates of the file, B/s, shape (F,).
        measured: Rates of payload while all were busy at once, B/s, shape (F,).
        busy: Share of processor time that was not idle.
        alone: Relative errors of flows measured alone afterwards; empty if none missed its rate.
    """

    pairs: tuple[Pair, ...]
    promised: NDArray[np.float64]
    measured: NDArray[np.float64]
    busy: float
    alone: dict[Pair, float]

    @property
    def errors(self) -> NDArray[np.float64]:
        """(measured - promised) / promised, shape (F,)."""
        return self.measured / self.promised - 1

    @property
    def is_passed(self) -> bool:
        """Whether every flow got its rate within :data:`TOLERANCE`."""
        return bool(np.abs(self.errors).max() <= TOLERANCE)

    def verdict(self) -> str:
        """One line: the worst flow and, if the check failed, the reason."""
        worst = int(np.abs(self.errors).argmax())
        a, b = self.pairs[worst]
        text = (
            f"{len(self.pairs)} flows over every link at once: worst rank {a} -> {b}, {_mbps(self.measured[worst])} of "
            f"{_mbps(self.promised[worst])} Mb/s ({self.errors[worst]:+.1%}); processors {self.busy:.0%} busy"
        )
        if self.is_passed:
            return f"{text}: ok (within {TOLERANCE:.0%})"
        alone = max((abs(error) for error in self.alone.values()), default=0.0)
        if alone <= TOLERANCE:
            return f"{text}: the processor is the limit, alone it is {alone:.1%} off. Use a smaller --scale."
        return f"{text}: alone it is still {alone:.1%} off, so the link itself is. Is the machine busy with something else?"


def check_lab(lab: Lab) -> LabCheck:
    """Measure flows that together cross every link, all at once; flows that miss their rate are measured again alone."""
    topology = find_topology(str(lab.topology_file))
    pairs = covering_pairs(topology, seed=lab.seed)
    promised = fair_rates(topology, pairs, seed=lab.seed)
    measured, busy = _look(lab, pairs, promised)
    errors = np.abs(measured / promised - 1)
    missed = [pairs[flow] for flow in np.argsort(-errors)[:_ALONE].tolist() if errors[flow] > TOLERANCE]
    alone = {}
    for pair in missed:
        own = fair_rates(topology, [pair], seed=lab.seed)
        alone[pair] = float(_look(lab, [pair], own)[0][0] / own[0] - 1)
    return LabCheck(pairs=tuple(pairs), promised=promised, measured=measured, busy=busy, alone=alone)


def _look(lab: Lab, pairs: Sequence[Pair], promised: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Rates of flows that are active together, once within tolerance or after the last try, and processor load."""
    duration = max(_SHORTEST, _FRAMES * MTU / float(promised.min()))
    with flows_under_way(lab, pairs, warm_up=_SHORTEST / 2) as meter:
        for _ in range(_PERIODS):
            rates, busy = meter.measure(duration)
            if np.abs(rates / promised - 1).max() <= TOLERANCE:
                break
    return rates, busy


def fair_rates(topology: Topology, pairs: Sequence[Pair], *, seed: int) -> NDArray[np.float64]:
    """Max-min fair rate of each pair when all send at once, B/s, shape (F,)."""
    source, destination = (np.array(ends) for ends in zip(*pairs, strict=True))
    routes = Router(topology, seed=seed).compile(source, destination)
    capacity = np.where(topology.link_shared, topology.link_bandwidth, np.inf)
    return max_min_rates(routes.offsets, routes.links, capacity)


def covering_pairs(topology: Topology, *, seed: int) -> list[Pair]:
    """A small set of pairs whose routes together cross every link in use; shortest routes first.

    A pair is chosen if it crosses a link that no earlier one does. So neighbours in a node load the scale-up links, and
    only the necessary flows leave the node.
    """
    num_ranks = topology.num_ranks
    pairs = [((rank + step) % num_ranks, step) for step in range(1, num_ranks) for rank in range(num_ranks)]
    ends = [((there - step) % num_ranks, there) for there, step in pairs]
    routes = Router(topology, seed=seed).compile(*(np.array(side) for side in zip(*ends, strict=True)))
    order = np.argsort(np.diff(routes.offsets), kind="stable")
    covered: set[int] = set()
    chosen = []
    for flow in order.tolist():
        links = routes.of(flow)
        if not covered.issuperset(links):
            covered.update(links)
            chosen.append(ends[flow])
    return chosen


def _mbps(rate: float) -> str:
    return f"{rate * 8e-6:.1f}"
