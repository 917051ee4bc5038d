"""When the last byte of each flow leaves, if flows share links max-min fairly: exactly, or with windows of time.

Rates change when a flow starts or ends. The exact solution recomputes them at each of these times, which costs about F^2; a
million flows need windows (see ``active_flows``). The last flows, which decide the makespan, are always followed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.fluid.active_flows import ActiveFlows
from smoes_sim.network.fluid.problem import (
    Block,
    Links,
    Problem,
    alone,
    check,
    least_makespan,
    part_of,
    reals,
    usable_routes,
)
from smoes_sim.network.fluid.symmetry import collapse
from smoes_sim.network.fluid.waterfill import ONE, ArrayWaterfill, CompactRoutes, Longs, Reals, backend

FEW_FLOWS = 500
"""Up to this many flows the search for symmetry takes longer than what it saves."""
TAIL = 512
"""Number of last flows that are followed exactly."""
_FIRST_WINDOW, _LAST_WINDOW = 0.4, 1 / 640
"""Widest and narrowest window tried, as a share of the least time that the flows in flight still need."""
_MANY, _FIRST_OF_MANY = 100_000, 0.8
"""With more flows than this a single flow matters less, and windows start wider."""

UNSEEN = 1e-4
"""Relative error that solutions with windows may have in common, so that no difference shows it. The largest measured so far
was 5.4e-5 (a 4:1 fat tree of 256 ranks, docs/accuracy/performance.md)."""

LinkUse = tuple[float, NDArray[np.float64]]
"""A time in seconds, and the share of each link's capacity in use from then on, shape (H,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FluidTimes:
    """Finish times of F flows.

    Attributes:
        drained: Seconds when the last byte of each flow leaves, shape (F,).
        error_bound: 0 if exact. Otherwise the largest relative difference of the makespan to those of the two solutions
            with windows twice and four times as wide, and at least 1e-4. It is measured, not proven, and holds for the
            makespan only: single flows that end inside a window may be off by more. nan if it was not measured, because
            the ``window`` was given.
        solves: Number of times that the max-min rates were recomputed, in all solutions tried.
        lower_bound: Lower bound of the makespan, seconds.
        link_use: Use of the links from each rate change on; empty unless recorded.
    """

    drained: Reals
    error_bound: float
    solves: int
    lower_bound: float
    link_use: tuple[LinkUse, ...] = ()

    @property
    def makespan(self) -> float:
        """Seconds until the last flow ends; 0 without flows."""
        return float(self.drained.max(initial=0.0))


def fluid_times(
    flows_offsets: NDArray[np.integer],
    flows_links: NDArray[np.integer],
    size: NDArray[np.floating],
    capacity: NDArray[np.floating],
    *,
    share: NDArray[np.floating] | None = None,
    ready: NDArray[np.floating] | None = None,
    ceiling: NDArray[np.floating] | None = None,
    incast_flows: NDArray[np.floating] | None = None,
    incast_efficiency: NDArray[np.floating] | None = None,
    tolerance: float = 0.0,
    window: float | None = None,
    compiled: bool = True,
    record_links: bool = False,
) -> FluidTimes:
    """Finish times of flows that share links max-min fairly.

    ``d remaining[f] / dt = -rate[f]`` from ``ready[f]`` on, with the ``max_min_rates`` of the flows in flight. No packets,
    no order at the sender, no round trips. Symmetric problems are first reduced, exactly, to one flow per class. Up to 56
    flows use NumPy only; larger problems import numba, which compiles for some seconds once (``network.compilation``).

    Args:
        flows_offsets: Flow ``f`` crosses ``flows_links[flows_offsets[f]:flows_offsets[f + 1]]``, shape (F + 1,).
        flows_links: Link ids.
        size: Bytes, shape (F,), >= 0; a flow without bytes ends when it is ready.
        capacity: B/s of each link, shape (H,), > 0.
        share: Share of its flow that crosses each entry of ``flows_links``, > 0; default 1.
        ready: Seconds when each flow may start, shape (F,), >= 0; default 0.
        ceiling: Largest rate of each flow on its own, B/s, shape (F,), > 0; default infinite.
        incast_flows: Number of flows above which a link delivers less, shape (H,); by default none does.
        incast_efficiency: Share of its capacity that such a link delivers, shape (H,).
        tolerance: Relative error of the makespan to aim at; 0 is exact. Above 0 and with more than 512 flows, windows
            are halved until three successive makespans agree within it (``FluidTimes.error_bound``).
        window: Width of all windows as a share of the least time that the flows in flight still need, for one solution
            whose error is not measured; 0 is exact. Default: widths that follow from ``tolerance``, which is ignored
            otherwise. Exact, with error 0, up to 512 flows.
        compiled: False to use NumPy only, whatever the size.
        record_links: Record the use of every link over time.

    Returns:
        Finish times with their error and the lower bound.

    Raises:
        SimulationError: If an input breaks a rule above.

    Example:
        A link of 10 B/s with flows of 10 and 30 B: both get 5 B/s until 2 s, then one gets 10 B/s and ends at 4 s.
    """
    num_flows = len(size)
    links = Links.without_incast(reals(capacity))
    if incast_flows is not None and incast_efficiency is not None:
        links = replace(links, incast_flows=reals(incast_flows), incast_efficiency=reals(incast_efficiency))
    flows = Block(
        offsets=np.require(flows_offsets, np.int64, ["C", "W"]),
        links=np.require(flows_links, np.int32, ["C", "W"]),
        weight=ONE if share is None else reals(share),
        size=reals(size),
        ceiling=np.full(num_flows, np.inf) if ceiling is None else reals(ceiling),
    )
    whole = Problem(flows=flows, ready=np.zeros(num_flows) if ready is None else reals(ready), links=links)
    check(whole)
    if window is not None and not 0 <= window < math.inf:
        raise SimulationError(f"window = {window}: a share of a time is finite and >= 0. Use 0.4, or 0 for the exact times.")
    drained, low = whole.ready + alone(flows), least_makespan(whole)
    sharing = np.flatnonzero((flows.size > 0) & (np.diff(flows.offsets) > 0))
    if not len(sharing):
        return FluidTimes(drained=drained, error_bound=0.0, solves=0, lower_bound=low)
    problem = whole if len(sharing) == num_flows else part_of(whole, sharing)
    flow_class, link_class = np.arange(len(sharing)), np.arange(len(capacity))
    if len(sharing) > FEW_FLOWS and share is None and not links.is_limited.any():
        problem, flow_class, link_class = _collapsed(problem)
    tool = backend(len(problem.ready), compiled=compiled)
    times, error, solves, use = _solved(problem, tool, tolerance, window, record_links)
    drained[sharing] = times[flow_class]
    whole_use = tuple((moment, load[link_class]) for moment, load in use)
    return FluidTimes(drained=drained, error_bound=error, solves=solves, lower_bound=low, link_use=whole_use)


def _solved(
    problem: Problem, tool: ArrayWaterfill, tolerance: float, given: float | None, record_links: bool
) -> tuple[Reals, float, int, list[LinkUse]]:
    """Finish times, relative difference to the solutions before, number of solves, use of the links."""
    if (tolerance if given is None else given) == 0 or len(problem.ready) <= TAIL:
        times, solves, use = run(problem, tool, window=0.0, record_links=record_links)
        return times, 0.0, solves, use
    if given is not None:
        times, solves, use = run(problem, tool, window=given, record_links=record_links)
        return times, math.nan, solves, use
    flows, links = problem.flows, problem.links
    routes = usable_routes(tool, flows.offsets, flows.links, flows.weight, links, prune=not record_links)
    rate = None
    if not problem.ready.any() and not links.is_limited.any():  # what every window would begin with
        rate, _ = tool.fill(routes, links.capacity[routes.links], flows.ceiling, ONE)
    window, total, makespans = _FIRST_OF_MANY if len(problem.ready) > _MANY else _FIRST_WINDOW, 0, []
    while True:
        own = replace(routes, members=routes.members.copy())  # water-filling reorders them
        times, solves, use = run(problem, tool, window=window, record_links=record_links, routes=own, rate=rate)
        makespans.append(float(times.max()))
        total += solves
        error = last_difference(makespans)
        if error <= tolerance or window <= _LAST_WINDOW:
            return times, max(error, UNSEEN), total, use
        window /= 2


def last_difference(makespans: Sequence[float]) -> float:
    """Largest relative difference of the last makespan to the two before it; infinite with fewer than three.

    One solution before would not do: two may agree by chance while both are wrong.

    Example:
        >>> round(last_difference([1.003, 1.0, 1.0]), 6)
        0.003
    """
    if len(makespans) < 3:
        return math.inf
    return max(abs(makespans[-1] - before) for before in makespans[-3:-1]) / makespans[-1]


def run(
    problem: Problem,
    tool: ArrayWaterfill,
    *,
    window: float,
    record_links: bool = False,
    routes: CompactRoutes | None = None,
    rate: Reals | None = None,
) -> tuple[Reals, int, list[LinkUse]]:
    """One solution: finish times, number of solves, use of the links.

    ``routes`` are what ``usable_routes`` makes of the flows, and ``rate`` their rates while all run, if that is known.
    """
    active = ActiveFlows(
        problem.links, tool, window=window, exact_below=TAIL, most_ended=1.25 * window, prune=not record_links
    )
    active.add(problem.flows, routes=routes, rate=rate)
    active.ready[:] = problem.ready
    drained, use = np.empty(len(problem.ready)), []
    while True:
        if not record_links:
            ids, times = active.follow()
            drained[ids] = times
        event = active.next_event()
        if event is None:
            break
        drained[event.ids] = event.times
        if record_links:
            use.append((active.clock, active.loads(event.rate) / problem.links.capacity))
        active.advance(event, event.end)
    if record_links:
        use.append((active.clock, np.zeros(len(problem.links.capacity))))
    return drained, active.solves, use


def _collapsed(problem: Problem) -> tuple[Problem, Longs, Longs]:
    """One flow per class of equal ones, with the class of each flow and link; unchanged if there are too many classes."""
    flows = problem.flows
    classes = collapse(
        flows.offsets, flows.links, flows.size, problem.links.capacity, problem.ready, flows.ceiling
    )  # fmt: skip
    if classes is None:
        return problem, np.arange(len(flows.size)), np.arange(len(problem.links.capacity))
    block = Block(
        offsets=classes.offsets, links=classes.links, weight=classes.weight, size=classes.size, ceiling=classes.ceiling
    )
    smaller = Problem(flows=block, ready=classes.ready, links=Links.without_incast(classes.capacity))
    return smaller, classes.flow_class, classes.link_class
