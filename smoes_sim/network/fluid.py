"""When the last byte of each flow leaves, if flows share links max-min fairly: exact, or in windows of time.

Rates change when a flow starts or ends. The exact solution shares anew at each of these moments, which costs about
F^2; a million flows need windows. Within a window a flow that ends is charged its exact average use, every other shares
what is left, and no byte is lost or carried twice: with bottlenecks that stay the same inside a window the bytes of each
survivor are exact, so the error comes from flows that change bottleneck and falls with the window. The makespan is
decided by the last flows, which are solved exactly whatever the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.symmetry import collapse
from smoes_sim.network.waterfill import ONE, ArrayWaterfill, Ids, Longs, Reals, backend

_SAME_INSTANT = 1e-12
"""Events closer than this, relative to the clock, happen together."""
_SMALL = 500
"""Up to this many flows arrays are quick enough that nothing is compiled or loaded from the cache."""
_TAIL = 2048
"""This many last flows are solved exactly."""
_FIRST_WINDOW, _LAST_WINDOW = 0.2, 1 / 640
"""Windows tried, as a share of the least time that what is in flight still needs."""
_LATE = 1e-6
"""A flow that becomes ready in the last millionth of a window waits for the next one."""
_DEAD = 0.15
"""Routes are packed anew when this share of the flows in flight has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FluidTimes:
    """When F flows are done.

    Attributes:
        drained: Seconds when the last byte leaves, shape (F,).
        error_bound: 0 if exact. Otherwise the relative difference of the makespans of the last two solutions, the
            returned one and one with windows twice as wide: a measured error, not a proven one, and of the makespan
            only (single flows that end inside a window may be off by more).
        solves: How often rates were shared anew, in all solutions tried.
        lower_bound: Seconds that the makespan cannot be below.
    """

    drained: Reals
    error_bound: float
    solves: int
    lower_bound: float

    @property
    def makespan(self) -> float:
        """Seconds until the last flow is done; 0 without flows."""
        return float(self.drained.max(initial=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Flows with bytes and links, and the arrays of ``fluid_times``; ``weight`` as in ``waterfill.Routes``."""

    offsets: Longs
    links: Ids
    weight: Reals
    size: Reals
    capacity: Reals
    ready: Reals
    ceiling: Reals


def fluid_times(
    flows_offsets: NDArray[np.integer],
    flows_links: NDArray[np.integer],
    size: NDArray[np.floating],
    capacity: NDArray[np.floating],
    *,
    ready: NDArray[np.floating] | None = None,
    ceiling: NDArray[np.floating] | None = None,
    tolerance: float = 0.0,
    compiled: bool = True,
) -> FluidTimes:
    """Finish times of flows that share links max-min fairly.

    ``d remaining[f] / dt = -rate[f]`` from ``ready[f]`` on, rates as in ``max_min_rates`` of the flows in flight. Fluid:
    no packets, no order at the sender, no round trips. Symmetric problems are first reduced, exactly, to one flow per
    class. Up to 500 flows use NumPy only; numba is imported (and compiles once, about 10 s) for larger ones.

    Args:
        flows_offsets: Flow ``f`` crosses ``flows_links[flows_offsets[f]:flows_offsets[f + 1]]``, shape (F + 1,).
        flows_links: Link ids.
        size: Bytes, shape (F,), >= 0; a flow without bytes ends when it is ready.
        capacity: B/s of each link, shape (H,), > 0.
        ready: Seconds when each flow may start, shape (F,), >= 0; all 0 when left out.
        ceiling: B/s that each flow cannot exceed by itself, shape (F,), > 0; infinite when left out.
        tolerance: Relative error of the makespan to aim at; 0 is exact. Above 0 and with more than 2,048 flows, windows
            are halved until two successive makespans agree within it (``FluidTimes.error_bound``).
        compiled: Use numba where it is installed and the problem is large enough.

    Returns:
        Finish times, how sure they are, and the bound.

    Raises:
        SimulationError: If an input breaks a rule above.

    Example:
        A link of 10 B/s with flows of 10 and 30 B: both get 5 B/s until 2 s, then one gets 10 B/s and ends at 4 s.
    """
    whole = _checked(flows_offsets, flows_links, size, capacity, ready, ceiling)
    drained, low = _without_sharing(whole), _lower_bound(whole)
    sharing = np.flatnonzero((whole.size > 0) & (np.diff(whole.offsets) > 0))
    if not len(sharing):
        return FluidTimes(drained=drained, error_bound=0.0, solves=0, lower_bound=low)
    problem = whole if len(sharing) == len(drained) else _part_of(whole, sharing)
    classes = None
    if len(sharing) > _SMALL:
        classes = collapse(problem.offsets, problem.links, problem.size, problem.capacity, problem.ready, problem.ceiling)
    if classes is not None:
        problem = _Problem(
            offsets=classes.offsets, links=classes.links, weight=classes.weight, size=classes.size,
            capacity=classes.capacity, ready=classes.ready, ceiling=classes.ceiling,
        )  # fmt: skip
    tool = backend(compiled=compiled and len(problem.size) > _SMALL)
    times, error, solves = _solved(_pruned(problem, tool), tool, tolerance)
    drained[sharing] = times if classes is None else times[classes.flow_class]
    return FluidTimes(drained=drained, error_bound=error, solves=solves, lower_bound=low)


def _solved(problem: _Problem, tool: ArrayWaterfill, tolerance: float) -> tuple[Reals, float, int]:
    """Finish times, relative difference to the solution before, solves."""
    if tolerance == 0 or len(problem.size) <= _TAIL:
        run = _Run(problem, tool, window=0.0)
        return run.finish(), 0.0, run.solves
    window, solves, before, error = _FIRST_WINDOW, 0, None, np.inf
    while True:
        run = _Run(problem, tool, window=window)
        times = run.finish()
        makespan, solves = float(times.max()), solves + run.solves
        if before is not None:
            error = abs(makespan - before) / makespan
        if error <= tolerance or window <= _LAST_WINDOW:
            return times, error, solves
        before, window = makespan, window / 2


class _Run:
    """One solution: a clock, the flows in flight and their routes.

    Arrays are over the flows in flight, shape (F,); a flow that ended has nothing remaining until ``_pack``.
    """

    def __init__(self, problem: _Problem, tool: ArrayWaterfill, *, window: float) -> None:
        self._problem, self._tool, self._window = problem, tool, window
        self._order = np.argsort(problem.ready, kind="stable")
        self._ready = problem.ready[self._order]
        self._drained = np.empty(len(problem.size))
        self._next = 0
        self._clock = 0.0
        self._flows = np.empty(0, dtype=np.int64)
        self._remaining = np.empty(0)
        self._alive = 0
        self.solves = 0

    def finish(self) -> Reals:
        """Finish times of all flows."""
        num_flows = len(self._order)
        while self._alive or self._next < num_flows:
            if not self._alive:
                self._clock = max(self._clock, float(self._ready[self._next]))
            if self._next < num_flows:
                self._admit(self._clock * (1 + _SAME_INSTANT))
            if self._window == 0 or self._alive + num_flows - self._next <= _TAIL:
                rate, _ = self._fill(self._limits(), ONE)
                self._advance(rate)
            else:
                self._step()
            if self._alive < (1 - _DEAD) * len(self._flows):
                self._pack(np.flatnonzero(self._remaining > 0))
        return self._drained

    def _admit(self, until: float) -> None:
        """Flows that are ready join."""
        last = int(np.searchsorted(self._ready, until, side="right"))
        if last == self._next:
            return
        new = self._order[self._next : last]
        kept = np.flatnonzero(self._remaining > 0)
        self._flows = np.concatenate([self._flows, new])
        self._remaining = np.concatenate([self._remaining, self._problem.size[new]])
        self._next = last
        self._pack(np.concatenate([kept, np.arange(len(self._flows) - len(new), len(self._flows))]))

    def _pack(self, kept: Longs) -> None:
        """Forget flows that ended, and links without flows."""
        problem = self._problem
        self._flows, self._remaining, self._alive = self._flows[kept], self._remaining[kept], len(kept)
        self._routes = self._tool.select(problem.offsets, problem.links, problem.weight, self._flows, len(problem.capacity))
        self._capacity = problem.capacity[self._routes.links]
        self._ceiling = problem.ceiling[self._flows]

    def _limits(self) -> Reals:
        return np.where(self._remaining > 0, self._ceiling, 0.0)

    def _fill(self, limit: Reals, part: Reals) -> tuple[Reals, Reals]:
        self.solves += 1
        return self._tool.fill(self._routes, self._capacity, limit, part)

    def _advance(self, rate: Reals) -> None:
        """Keep rates until a flow ends or the next is ready."""
        left = np.divide(self._remaining, rate, out=np.full(len(rate), np.inf), where=rate > 0)
        step, then = float(left.min()), np.inf
        if self._next < len(self._ready):
            then = float(self._ready[self._next])
        end = self._clock + step
        if then < end:
            step, end = max(then - self._clock, 0.0), then
        done = left <= step + _SAME_INSTANT * end
        self._drained[self._flows[done]] = self._clock + left[done]
        self._remaining -= rate * step
        self._remaining[done] = 0.0
        self._alive -= int(np.count_nonzero(done))
        self._clock = end

    def _step(self) -> None:
        """One window: flows that end in it are charged their average use, the others share the rest."""
        width = self._window * self._least_time()
        self._admit(self._clock + width * (1 - _LATE))
        start = self._problem.ready[self._flows]
        is_late = bool((start > self._clock).any())
        while True:
            part = np.clip((self._clock + width - start) / width, _LATE, 1.0) if is_late else ONE
            limit = np.minimum(self._ceiling * part, self._remaining / width)
            rate, level = self._fill(limit, part)
            ended = (rate * width >= self._remaining * (1 - _SAME_INSTANT)) & (self._remaining > 0)
            num_ended = int(np.count_nonzero(ended))
            if not num_ended and not is_late:
                self._advance(rate)
                return
            rest = self._alive - num_ended + len(self._order) - self._next
            if is_late or rest >= _TAIL // 4 or num_ended <= _TAIL:
                break
            width /= 2
        self._end(np.flatnonzero(ended), rate, level, part, width)
        self._remaining -= rate * width
        self._remaining[ended] = 0.0
        self._alive -= num_ended
        self._clock += width

    def _end(self, ended: Longs, rate: Reals, level: Reals, part: Reals, width: float) -> None:
        """Finish times inside a window: a flow is served at its narrowest level from when it is ready.

        A link that does not fill runs dry at ``width * load / capacity``, when its largest flow ends; the level that
        says so is ``largest * capacity / load``.
        """
        load = self._tool.loads(self._routes, rate)
        top = self._tool.peaks(self._routes, rate / part)
        dry = np.divide(top * self._capacity, load, out=np.full(len(load), np.inf), where=load > 0)
        served = self._tool.narrowest(self._routes, ended, np.minimum(level, dry))
        speed = np.minimum(served, self._ceiling[ended])
        parts = part[ended] if len(part) > 1 else part
        after = (1 - parts) * width + self._remaining[ended] / speed
        self._drained[self._flows[ended]] = self._clock + np.minimum(after, width)

    def _least_time(self) -> float:
        """Seconds that what is in flight needs at least."""
        load = self._tool.loads(self._routes, self._remaining)
        return float(max((load / self._capacity).max(), (self._remaining / self._ceiling).max()))


def _checked(
    offsets: NDArray[np.integer],
    links: NDArray[np.integer],
    size: NDArray[np.floating],
    capacity: NDArray[np.floating],
    ready: NDArray[np.floating] | None,
    ceiling: NDArray[np.floating] | None,
) -> _Problem:
    """The input as contiguous arrays of the types that the loops are compiled for."""
    num_flows = len(size)
    problem = _Problem(
        offsets=np.require(offsets, np.int64, ["C", "W"]),
        links=np.require(links, np.int32, ["C", "W"]),
        weight=ONE,
        size=np.require(size, np.float64, ["C", "W"]),
        capacity=np.require(capacity, np.float64, ["C", "W"]),
        ready=np.zeros(num_flows) if ready is None else np.require(ready, np.float64, ["C", "W"]),
        ceiling=np.full(num_flows, np.inf) if ceiling is None else np.require(ceiling, np.float64, ["C", "W"]),
    )
    lengths = {len(problem.offsets) - 1, len(problem.size), len(problem.ready), len(problem.ceiling)}
    if len(lengths) > 1 or (num_flows and problem.offsets[-1] != len(problem.links)):
        raise SimulationError(f"arrays of {sorted(lengths)} flows: offsets, size, ready and ceiling must agree.")
    rules = {
        "size": (problem.size >= 0) & np.isfinite(problem.size),
        "ready": (problem.ready >= 0) & np.isfinite(problem.ready),
        "ceiling": problem.ceiling > 0,
        "capacity": (problem.capacity > 0) & np.isfinite(problem.capacity),
    }
    for name, is_good in rules.items():
        if not is_good.all():
            index = int(np.argmin(is_good))
            raise SimulationError(f"{name}[{index}] = {getattr(problem, name)[index]}: sizes and times are finite and "
                                  ">= 0, capacities finite and > 0, ceilings > 0.")  # fmt: skip
    return problem


def _part_of(problem: _Problem, flows: Longs) -> _Problem:
    """The problem of some of its flows."""
    routes = ArrayWaterfill().select(problem.offsets, problem.links, ONE, flows, len(problem.capacity))
    return _Problem(
        offsets=routes.start, links=routes.local, weight=ONE, size=problem.size[flows],
        capacity=problem.capacity[routes.links], ready=problem.ready[flows], ceiling=problem.ceiling[flows],
    )  # fmt: skip


def _pruned(problem: _Problem, tool: ArrayWaterfill) -> _Problem:
    """The same problem without links that can never be a bottleneck."""
    everything = np.arange(len(problem.size))
    routes = tool.select(problem.offsets, problem.links, problem.weight, everything, len(problem.capacity))
    gone = tool.redundant(routes, problem.capacity[routes.links])
    if not gone.any():
        return problem
    kept = ~gone[routes.local]
    offsets = np.concatenate([[0], np.cumsum(kept)])[routes.start]
    return _Problem(
        offsets=offsets, links=problem.links[kept], weight=ONE, size=problem.size, capacity=problem.capacity,
        ready=problem.ready, ceiling=problem.ceiling,
    )  # fmt: skip


def _without_sharing(problem: _Problem) -> Reals:
    """When each flow would end with its ceiling alone."""
    return problem.ready + np.where(np.isfinite(problem.ceiling), problem.size / problem.ceiling, 0.0)


def _lower_bound(problem: _Problem) -> float:
    """Seconds: each link carries its bytes from when the first is ready, each flow passes its narrowest link."""
    count = np.diff(problem.offsets)
    load = np.bincount(problem.links, weights=np.repeat(problem.size, count), minlength=len(problem.capacity))
    first = np.zeros(len(load))
    if problem.ready.any():
        first[:] = np.inf
        has_bytes = np.repeat(problem.size > 0, count)
        np.minimum.at(first, problem.links[has_bytes], np.repeat(problem.ready, count)[has_bytes])
    by_link = (first + load / problem.capacity)[load > 0].max(initial=0.0)
    rate = problem.ceiling.copy()
    filled = np.flatnonzero(count)
    if len(filled):
        narrow = np.minimum.reduceat(problem.capacity[problem.links], problem.offsets[filled])
        rate[filled] = np.minimum(rate[filled], narrow)
    return float(max(by_link, (problem.ready + problem.size / rate).max(initial=0.0)))
