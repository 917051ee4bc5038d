"""Routes that are solved many times with other sizes and ready times: what depends on routes alone is done once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.fluid.problem import Block, Links, Problem, alone, check, part_of, reals, usable_routes
from smoes_sim.network.fluid.solve import TAIL, run
from smoes_sim.network.fluid.waterfill import ONE, CompiledWaterfill, Reals, backend

_MANY = 1_000_000
"""Number of flows that asks for compiled code whatever their number is, because it will be called often."""


class PreparedRoutes:
    """Routes of F flows over links of fixed capacity, checked, pruned and sorted once.

    Same model as :func:`~smoes_sim.network.fluid.solve.fluid_times`, without incast. Compiled code is used for any number of
    flows, where numba is installed. If no two flows share a link, each has the rate of its narrowest link and nothing is
    solved.

    Args:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids.
        capacity: B/s of each link, shape (H,), > 0.
        share: Share of its flow that crosses each entry of ``links``, > 0; default 1.
        ceiling: Largest rate of each flow on its own, B/s, shape (F,), > 0; default infinite.

    Raises:
        SimulationError: If an input breaks a rule above.

    Example:
        A link of 10 B/s with two flows: of 10 and 30 B, then of 10 B each, the second of them from 3 s on.

        >>> routes = PreparedRoutes(np.array([0, 1, 2]), np.array([0, 0]), np.array([10.0]))
        >>> routes.drained(np.array([10.0, 30.0])).tolist()
        [2.0, 4.0]
        >>> routes.drained(np.array([10.0, 10.0]), np.array([0.0, 3.0])).tolist()
        [1.0, 4.0]
    """

    def __init__(
        self,
        offsets: NDArray[np.integer],
        links: NDArray[np.integer],
        capacity: NDArray[np.floating],
        *,
        share: NDArray[np.floating] | None = None,
        ceiling: NDArray[np.floating] | None = None,
    ) -> None:
        count = len(offsets) - 1
        flows = Block(
            offsets=np.require(offsets, np.int64, ["C", "W"]),
            links=np.require(links, np.int32, ["C", "W"]),
            weight=ONE if share is None else reals(share),
            size=np.ones(count),
            ceiling=np.full(count, np.inf) if ceiling is None else reals(ceiling),
        )
        whole = Problem(flows=flows, ready=np.zeros(count), links=Links.without_incast(reals(capacity)))
        check(whole)
        self._num_flows = count
        self._on_links = np.flatnonzero(np.diff(flows.offsets))
        self._alone = alone(flows)  # seconds per byte
        self._problem = whole if len(self._on_links) == count else part_of(whole, self._on_links)
        self._rate = _rates_alone(self._problem)
        if self._rate is None:
            self._tool = backend(_MANY)
            block = self._problem.flows
            self._routes = usable_routes(self._tool, block.offsets, block.links, block.weight, self._problem.links)
            self._capacity = self._problem.links.capacity[self._routes.links]

    def __len__(self) -> int:
        return self._num_flows

    def drained(self, size: Reals, ready: Reals | None = None, *, window: float = 0.0) -> Reals:
        """Seconds when the last byte of each flow leaves, shape (F,).

        Args:
            size: Bytes, shape (F,), >= 0; a flow without bytes ends when it is ready.
            ready: Seconds when each flow may start, shape (F,), >= 0; default 0.
            window: Width of windows as a share of the least time that the flows in flight still need; 0 is exact, and so
                is any other window up to 512 flows that have bytes. The error of wider windows is not measured.

        Raises:
            SimulationError: If an input breaks a rule above.
        """
        size = reals(size)
        ready = np.zeros(self._num_flows) if ready is None else reals(ready)
        self._check(size, ready, window)
        if len(self._on_links) == self._num_flows:
            return self._on_shared_links(size, ready, window)
        result = ready + self._alone * size
        on = self._on_links
        result[on] = self._on_shared_links(size[on], ready[on], window)
        return result

    def _on_shared_links(self, size: Reals, ready: Reals, window: float) -> Reals:
        """``drained`` of the flows that cross links."""
        if self._rate is not None:
            return ready + size / self._rate
        has_bytes = size > 0
        num_active = int(np.count_nonzero(has_bytes))
        if isinstance(self._tool, CompiledWaterfill) and (window == 0 or num_active <= TAIL):
            ceiling = self._problem.flows.ceiling
            ends = self._tool.follow(self._routes, self._capacity, size, ready=ready, ceiling=ceiling).drained
            return ends if num_active == len(size) else np.where(has_bytes, ends, ready)
        whole = replace(self._problem, flows=replace(self._problem.flows, size=size), ready=ready)
        if num_active == len(size):
            fresh = replace(self._routes, members=self._routes.members.copy())  # its order changes sums in the last digit
            return run(whole, self._tool, window=window, routes=fresh)[0]
        result = ready.copy()
        if num_active:
            active = np.flatnonzero(has_bytes)
            result[active] = run(part_of(whole, active), self._tool, window=window)[0]
        return result

    def _check(self, size: Reals, ready: Reals, window: float) -> None:
        """Check what changes from call to call, in a few microseconds.

        Raises:
            SimulationError: With what is wrong.
        """
        if not len(size) == len(ready) == self._num_flows:
            raise SimulationError(f"{len(size)} sizes and {len(ready)} ready times: there are {self._num_flows} flows.")
        for name, values in (("size", size), ("ready", ready)):
            if len(values) and not (values.min() >= 0 and values.max() < math.inf):
                raise SimulationError(f"{name} between {values.min()} and {values.max()}: finite and >= 0.")
        if not 0 <= window < math.inf:
            raise SimulationError(
                f"window = {window}: a share of a time is finite and >= 0. Use 0.4, or 0 for the exact times."
            )


def _rates_alone(problem: Problem) -> Reals | None:
    """Rate of each flow, B/s, shape (F,), if no two share a link; None if some do."""
    flows, capacity = problem.flows, problem.links.capacity
    if np.bincount(flows.links, minlength=1).max() > 1:
        return None
    if not len(flows.ceiling):
        return flows.ceiling
    narrowest = np.minimum.reduceat(capacity[flows.links] / flows.weight, flows.offsets[:-1])
    return np.minimum(flows.ceiling, narrowest)
