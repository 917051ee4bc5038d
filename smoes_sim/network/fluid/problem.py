"""Flows on links as arrays: what they must fulfil, a lower bound of their makespan, the routes that matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.fluid.waterfill import ArrayWaterfill, CompactRoutes, Ids, Longs, Reals

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Capacity of the links, and how incast lowers it.

    Attributes:
        capacity: B/s, shape (H,), > 0.
        incast_flows: Number of flows above which a link delivers less, shape (H,); infinite where it never does.
        incast_efficiency: Share of its capacity that such a link delivers, shape (H,).
    """

    capacity: Reals
    incast_flows: Reals
    incast_efficiency: Reals

    @classmethod
    def without_incast(cls, capacity: Reals) -> Links:
        """Links that deliver their full capacity to any number of flows."""
        return cls(
            capacity=capacity,
            incast_flows=np.full(len(capacity), np.inf),
            incast_efficiency=np.ones(len(capacity)),
        )

    def some(self, links: Longs) -> Links:
        """The subset ``links``, in that order."""
        return Links(
            capacity=self.capacity[links],
            incast_flows=self.incast_flows[links],
            incast_efficiency=self.incast_efficiency[links],
        )

    @property
    def is_limited(self) -> Mask:
        """Whether incast can lower the capacity of each link, shape (H,)."""
        return np.isfinite(self.incast_flows) & (self.incast_efficiency < 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Flows that are added together.

    Attributes:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, at least one link, shape (F + 1,).
        links: Link ids.
        weight: Share of the flow that crosses each entry, shape (N,), or (1,) for all.
        size: Bytes, shape (F,), > 0.
        ceiling: Largest rate of each flow on its own, B/s, shape (F,).
    """

    offsets: Longs
    links: Ids
    weight: Reals
    size: Reals
    ceiling: Reals


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Flows with their ready times, and links; some flows may have no bytes or cross no link."""

    flows: Block
    ready: Reals
    links: Links


def reals(values: NDArray[np.floating]) -> Reals:
    """The values as 64-bit floats in one piece of memory, copied if they are not."""
    return np.require(values, np.float64, ["C", "W"])


def check(problem: Problem) -> None:
    """Check that arrays have matching lengths and valid values.

    Raises:
        SimulationError: With the first bad value.
    """
    flows, ready, links = problem.flows, problem.ready, problem.links
    lengths = {len(flows.offsets) - 1, len(flows.size), len(ready), len(flows.ceiling)}
    if len(lengths) > 1 or (len(ready) and flows.offsets[-1] != len(flows.links)):
        raise SimulationError(f"arrays of {sorted(lengths)} flows: offsets, size, ready and ceiling must agree.")
    if len(flows.links) and not 0 <= flows.links.min() <= flows.links.max() < len(links.capacity):
        raise SimulationError(f"links {flows.links.min()} to {flows.links.max()}: there are {len(links.capacity)}.")
    rules = {
        "size": (flows.size, (flows.size >= 0) & np.isfinite(flows.size)),
        "ready": (ready, (ready >= 0) & np.isfinite(ready)),
        "ceiling": (flows.ceiling, flows.ceiling > 0),
        "share": (flows.weight, (flows.weight > 0) & np.isfinite(flows.weight)),
        "capacity": (links.capacity, (links.capacity > 0) & np.isfinite(links.capacity)),
        "incast_efficiency": (links.incast_efficiency, (links.incast_efficiency > 0) & (links.incast_efficiency <= 1)),
    }
    for name, (values, is_good) in rules.items():
        if not is_good.all():
            index = int(np.argmin(is_good))
            raise SimulationError(
                f"{name}[{index}] = {values[index]}: sizes and times are finite and >= 0, capacities and shares finite and "
                "> 0, ceilings > 0, incast efficiencies in (0, 1]."
            )


def part_of(problem: Problem, flows: Longs) -> Problem:
    """The problem restricted to some of its flows."""
    block = problem.flows
    routes = ArrayWaterfill().select(block.offsets, block.links, block.weight, flows, len(problem.links.capacity))
    return Problem(
        flows=Block(
            offsets=routes.start,
            links=routes.links[routes.local].astype(np.int32),
            weight=routes.weight,
            size=block.size[flows],
            ceiling=block.ceiling[flows],
        ),
        ready=problem.ready[flows],
        links=problem.links,
    )


def alone(flows: Block) -> Reals:
    """Seconds that each flow takes at its ceiling; 0 without one, shape (F,)."""
    return np.where(np.isfinite(flows.ceiling), flows.size / flows.ceiling, 0.0)


def least_makespan(problem: Problem) -> float:
    """Lower bound of the makespan, seconds: each link carries its bytes after the first is ready, each flow its own."""
    flows, capacity = problem.flows, problem.links.capacity
    count = np.diff(flows.offsets)
    weight = np.broadcast_to(flows.weight, len(flows.links))
    load = np.bincount(flows.links, weights=np.repeat(flows.size, count) * weight, minlength=len(capacity))
    first = np.zeros(len(load))
    if problem.ready.any():
        first[:] = np.inf
        has_bytes = np.repeat(flows.size > 0, count)
        np.minimum.at(first, flows.links[has_bytes], np.repeat(problem.ready, count)[has_bytes])
    by_link = (first + load / capacity)[load > 0].max(initial=0.0)
    rate = flows.ceiling.copy()
    filled = np.flatnonzero(count)
    if len(filled):
        narrow = np.minimum.reduceat(capacity[flows.links] / weight, flows.offsets[filled])
        rate[filled] = np.minimum(rate[filled], narrow)
    return float(max(by_link, (problem.ready + flows.size / rate).max(initial=0.0)))


def usable_routes(
    tool: ArrayWaterfill, offsets: Longs, entries: Ids, weight: Reals, links: Links, *, prune: bool = True
) -> CompactRoutes:
    """Routes over the links that are in use and, with ``prune``, can be a bottleneck."""
    everything, num_links = np.arange(len(offsets) - 1), len(links.capacity)
    routes = tool.select(offsets, entries, weight, everything, num_links)
    if prune:
        local = links.some(routes.links)
        gone = tool.redundant(routes, local.capacity) & (~local.is_limited)
        if gone.any():
            kept = ~gone[routes.local]
            offsets = np.concatenate([[0], np.cumsum(kept)])[routes.start]
            entries = routes.links[routes.local[kept]].astype(np.int32)
            weight = routes.weight[kept] if len(routes.weight) > 1 else routes.weight
            routes = tool.select(offsets, entries, weight, everything, num_links)
    return routes
