"""Slow and obvious versions of what the package does fast, and the rules that every answer must keep."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import networkx as nx
import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, vstack

from smoes_sim.network import max_min_rates
from smoes_sim.network.fluid.solve import fluid_times

INFINITE = float("inf")


class Problem(NamedTuple):
    """Flows on links, as lists: bytes, B/s and seconds, the links of each flow and how much of it crosses each."""

    routes: list
    size: list
    capacity: list
    ready: list
    ceiling: list
    share: list

    def arrays(self):
        """Offsets, links, size, capacity, as the package takes them."""
        offsets = np.concatenate([[0], np.cumsum([len(route) for route in self.routes])]).astype(np.int64)
        links = np.array([link for route in self.routes for link in route], dtype=np.int32)
        return offsets, links, np.array(self.size, dtype=float), np.array(self.capacity, dtype=float)

    def solve(self, **options):
        """The answer of the package."""
        ready, ceiling = (np.array(values, dtype=float) for values in (self.ready, self.ceiling))
        shares = [float(share) for flow in self.share for share in flow]
        if set(shares) - {1.0}:
            options["share"] = np.array(shares)
        return fluid_times(*self.arrays(), ready=ready, ceiling=ceiling, **options)

    def rates(self):
        """Max-min rates of all flows together, by the package."""
        offsets, links, _, capacity = self.arrays()
        return max_min_rates(offsets, links, capacity, ceiling=np.array(self.ceiling, dtype=float))

    def incidence(self):
        """The share of each flow that crosses each link, shape (H, F)."""
        on = np.zeros((len(self.capacity), len(self.routes)))
        for flow, (route, share) in enumerate(zip(self.routes, self.share, strict=True)):
            on[route, flow] = share
        return on


def problem_of(routes, size, capacity, *, ready=None, ceiling=None, share=None):
    """Whole flows that start at 0 and are limited by their links alone, if not said otherwise."""
    count = len(routes)
    return Problem(
        routes, size, capacity, ready or [0] * count, ceiling or [INFINITE] * count, share or [[1] * len(r) for r in routes]
    )


def problem_from(network, flows, ready):
    """The messages of one phase, from when they are ready on."""
    offsets, share = flows.routes.offsets, flows.routes.share
    return problem_of(
        flows_as_lists(flows),
        flows.size.tolist(),
        network.capacity.tolist(),
        ready=ready.tolist(),
        ceiling=flows.ceiling.tolist(),
        share=None if share is None else [part.tolist() for part in np.split(share, offsets[1:-1])],
    )


def side_by_side(problems):
    """Problems that share nothing as one: each keeps its links, so each keeps its times."""
    first = np.concatenate([[0], np.cumsum([len(problem.capacity) for problem in problems])]).tolist()
    routes = [
        [link + low for link in route] for problem, low in zip(problems, first, strict=False) for route in problem.routes
    ]
    return Problem(routes, *([value for problem in problems for value in problem[field]] for field in range(1, 6)))


def random_problem(rng, *, most_flows=6, most_links=5, orders=0, is_timed=True, is_split=False):
    """A few flows with small whole numbers, so that much happens at once; capacities over some orders of magnitude.

    With ``is_split`` a link may carry a half or a quarter of a flow.
    """
    num_flows, num_links = int(rng.integers(1, most_flows + 1)), int(rng.integers(1, most_links + 1))

    def route():
        return rng.permutation(num_links)[: rng.integers(1, min(3, num_links) + 1)].tolist()

    def scale():
        return 10 ** int(rng.integers(0, orders + 1))

    def share(route):
        return [2.0 ** -int(rng.integers(0, 3)) if is_split else 1 for _ in route]

    routes = [route() for _ in range(num_flows)]
    return Problem(
        routes=routes,
        size=[int(rng.integers(1, 9)) * scale() for _ in range(num_flows)],
        capacity=[int(rng.integers(1, 13)) * scale() for _ in range(num_links)],
        ready=[int(rng.integers(0, 4)) * int(is_timed) for _ in range(num_flows)],
        ceiling=[float(rng.integers(1, 13) / 2) * scale() if rng.random() < 0.3 else INFINITE for _ in range(num_flows)],
        share=[share(route) for route in routes],
    )


def progressive_filling(routes, capacity, ceiling=None):
    """Max-min rates by ``exact_rates``, rounded to floats."""
    return np.array([float(rate) for rate in exact_rates(routes, capacity, ceiling)])


def exact_rates(routes, capacity, ceiling=None, share=None):
    """Max-min rates in exact fractions: raise all rates by the largest step any rule allows, freeze, repeat.

    ``routes`` is a list of lists of links, ``capacity`` maps links to B/s, ``ceiling`` is a list of B/s, ``share`` as in
    ``Problem``.
    """
    flows = range(len(routes))
    limit = [INFINITE] * len(routes) if ceiling is None else list(ceiling)
    room = {link: Fraction(capacity[link]) for route in routes for link in route}
    parts = [[1] * len(route) for route in routes] if share is None else share
    part = {(f, link): Fraction(p) for f in flows for link, p in zip(routes[f], parts[f], strict=True)}
    rate = [Fraction(0) for _ in flows]
    rising = set(flows)
    while rising:
        on = {link: sum(part[f, link] for f in rising if link in routes[f]) for link in room}
        steps = [room[link] / on[link] for link in room if on[link]]
        steps += [Fraction(limit[f]) - rate[f] for f in rising if limit[f] < INFINITE]
        step = min(steps)
        for f in rising:
            rate[f] += step
        for link in room:
            room[link] -= step * on[link]
        full = {link for link in room if on[link] and room[link] == 0}
        rising = {f for f in rising if not full & set(routes[f]) and rate[f] != limit[f]}
    return rate


def exact_fluid(problem):
    """Finish times in exact fractions, from event to event; the events are the starts and ends of flows."""
    left = [Fraction(size) for size in problem.size]
    ready = [Fraction(moment) for moment in problem.ready]
    end = [start if size == 0 else None for start, size in zip(ready, left, strict=True)]
    now = Fraction(0)
    while None in end:
        waiting = [f for f in range(len(end)) if end[f] is None]
        active = [f for f in waiting if ready[f] <= now]
        steps = [ready[f] - now for f in waiting if ready[f] > now]
        routes, ceiling, share = ([values[f] for f in active] for values in (problem.routes, problem.ceiling, problem.share))
        rates = exact_rates(routes, problem.capacity, ceiling, share)
        steps += [left[f] / rate for f, rate in zip(active, rates, strict=True)]
        now += min(steps)
        for f, rate in zip(active, rates, strict=True):
            left[f] -= rate * min(steps)
            if left[f] == 0:
                end[f] = now
    return end


def raised_together(on, capacity, ceiling):
    """Max-min rates in floats on a dense (H, F) array: raise all by the largest step any rule allows, freeze, repeat."""
    rate, room = np.zeros(on.shape[1]), np.array(capacity, dtype=float)
    rising = np.ones(on.shape[1], dtype=bool)
    while rising.any():
        count = on @ rising
        used = count > 0
        step = min((room[used] / count[used]).min(initial=np.inf), (ceiling - rate)[rising].min())
        rate[rising] += step
        room -= count * step
        full = used & (room <= 1e-12 * np.array(capacity))
        rising &= (full @ on == 0) & (rate < ceiling * (1 - 1e-12))
    return rate


def float_fluid(problem, *, most=INFINITE, efficiency=1.0):
    """Finish times in floats, from event to event, with ``raised_together``.

    A link delivers ``efficiency`` of its capacity while it carries more than ``most`` flows; one number or one for each.
    """
    on, capacity, ceiling = problem.incidence(), np.array(problem.capacity, dtype=float), np.array(problem.ceiling)
    left, ready = np.array(problem.size, dtype=float), np.array(problem.ready, dtype=float)
    end, now = np.where(left > 0, np.nan, ready), 0.0
    while np.isnan(end).any():
        active = np.flatnonzero(np.isnan(end) & (ready <= now))
        later = ready[ready > now].min(initial=np.inf)
        delivered = np.where(on[:, active].sum(axis=1) > most, capacity * efficiency, capacity)
        rate = raised_together(on[:, active], delivered, ceiling[active])
        drained = now + left[active] / rate
        then = min(drained.min(initial=np.inf), later)
        done = drained <= then * (1 + 1e-13)
        end[active[done]] = drained[done]
        left[active] -= rate * (then - now)
        now = then
    return end


def bytes_carried(problem, drained):
    """What each flow gets if it is in flight from its start to a given end: 0 for no flow whose end is right.

    The integral of the max-min rates of the flows in flight over time, by ``raised_together``; equal to the sizes if and
    only if the ends are those of the fluid model.
    """
    on, capacity, ceiling = problem.incidence(), np.array(problem.capacity, dtype=float), np.array(problem.ceiling)
    ready, carried = np.array(problem.ready, dtype=float), np.zeros(len(problem.routes))
    moments = np.unique(np.concatenate([ready, drained]))
    for start, stop in pairwise(moments):
        active = np.flatnonzero((ready <= start) & (drained >= stop))
        carried[active] += raised_together(on[:, active], capacity, ceiling[active]) * (stop - start)
    return carried


def max_min_by_programming(problems):
    """Max-min rates of many problems by linear programming, one program for all in each round.

    A round maximises the least rate t of the flows of each problem that are still free, ``t <= rate``; the flows whose rule
    has a price (a dual value) cannot exceed t in any solution, and are pinned. The prices of a problem add up to 1, so
    every round pins some.
    """
    whole, owner = side_by_side(problems), np.repeat(np.arange(len(problems)), [len(p.routes) for p in problems])
    num_flows, num_links, every = len(owner), len(whole.capacity), np.arange(len(owner))
    flow_of = np.repeat(every, [len(route) for route in whole.routes])
    links = np.concatenate(whole.routes)
    width = num_flows + len(problems)
    crossing = coo_array((np.concatenate(whole.share), (links, flow_of)), shape=(num_links, width))
    above = coo_array(
        (np.repeat([1.0, -1.0], num_flows), (np.tile(every, 2), np.concatenate([num_flows + owner, every]))),
        shape=(num_flows, width),
    )
    low, high = np.zeros(width), np.concatenate([whole.ceiling, np.full(len(problems), np.inf)])
    free = np.ones(num_flows, dtype=bool)
    while free.any():
        rows = vstack([crossing, csr_array(above)[free]])
        goal = np.concatenate([np.zeros(num_flows), -np.isin(np.arange(len(problems)), owner[free]).astype(float)])
        right = np.concatenate([whole.capacity, np.zeros(free.sum())])
        best = linprog(goal, A_ub=rows, b_ub=right, bounds=np.column_stack([low, high]), method="highs")
        assert best.status == 0, best.message
        pinned = every[free][best.ineqlin.marginals[num_links:] < -1e-6]
        assert len(pinned)
        low[pinned] = high[pinned] = best.x[num_flows + owner[pinned]]
        free[pinned] = False
    return low[:num_flows]


def lexicographic_max_min(routes, capacity, ceiling=None):
    """Max-min rates by linear programming: maximise the least rate, pin the flows that cannot exceed it, repeat."""
    num_flows = len(routes)
    links = sorted({link for route in routes for link in route})
    crossing = np.array([[float(link in route) for route in routes] for link in links]).reshape(-1, num_flows)
    room = np.array([capacity[link] for link in links], dtype=float)
    upper = [None if ceiling is None or c == INFINITE else c for c in (ceiling or [INFINITE] * num_flows)]
    pinned = {}

    def bounds(least):
        return [(pinned[f], pinned[f]) if f in pinned else (least, upper[f]) for f in range(num_flows)]

    while len(pinned) < num_flows:
        # unknowns: the rates and the least rate t; a free flow has t - rate <= 0
        free = [f for f in range(num_flows) if f not in pinned]
        above = np.zeros((len(free), num_flows + 1))
        above[range(len(free)), free], above[:, -1] = -1, 1
        rows = np.vstack([np.column_stack([crossing, np.zeros(len(links))]), above])
        best = linprog(
            [0.0] * num_flows + [-1.0],
            A_ub=rows,
            b_ub=np.concatenate([room, np.zeros(len(free))]),
            bounds=[*bounds(0), (0, None)],
        )
        least = best.x[-1]
        for f in free:
            cost = np.zeros(num_flows)
            cost[f] = -1
            highest = linprog(cost, A_ub=crossing, b_ub=room, bounds=bounds(least * (1 - 1e-9)))
            if -highest.fun <= least * (1 + 1e-6):
                pinned[f] = least
    return np.array([pinned[f] for f in range(num_flows)])


def check_max_min(rates, routes, capacity, ceiling=None):
    """The rules of max-min fairness, whatever algorithm found the rates."""
    rates = np.asarray(rates)
    assert np.all(rates >= 0)
    load, highest = {}, {}
    for rate, route in zip(rates, routes, strict=True):
        for link in route:
            load[link] = load.get(link, 0.0) + rate
            highest[link] = max(highest.get(link, 0.0), rate)
    for link, total in load.items():
        assert total <= capacity[link] * (1 + 1e-9), f"link {link} carries {total} of {capacity[link]}"
    for f, (rate, route) in enumerate(zip(rates, routes, strict=True)):
        if ceiling is not None and rate >= ceiling[f] * (1 - 1e-9):
            assert rate <= ceiling[f] * (1 + 1e-9), f"flow {f} is above its ceiling"
            continue
        held = [link for link in route if load[link] >= capacity[link] * (1 - 1e-9) and rate >= highest[link] * (1 - 1e-9)]
        assert held, f"flow {f} at {rate} could have more"


def flows_as_lists(flows):
    """The routes of Flows as lists of links."""
    return [flows.routes.of(f) for f in range(len(flows))]


def fluid_finish(network, flows):
    """When each message of one phase arrives, alone on the network: from event to event, no clock, no heap."""
    posted = {}
    start = np.zeros(len(flows))
    for f, rank in enumerate(flows.source.tolist()):
        posted[rank] = posted.get(rank, 0) + 1
        start[f] = network.per_exchange + posted[rank] * network.per_message
    routes, left = flows_as_lists(flows), flows.size.astype(float)
    end = np.full(len(flows), np.nan)
    now = float(start.min(initial=0.0))
    while np.isnan(end).any():
        active = [f for f in range(len(flows)) if start[f] <= now and np.isnan(end[f])]
        later = start[start > now].min(initial=np.inf)
        if not active:
            now = float(later)
            continue
        rates = progressive_filling([routes[f] for f in active], network.capacity.tolist(), flows.ceiling[active].tolist())
        drained = now + left[active] / rates
        then = min(float(drained.min()), float(later))
        for f, rate, when in zip(active, rates, drained, strict=True):
            if when <= then * (1 + 1e-12):
                end[f] = then
            left[f] -= rate * (then - now)
        now = then
    return end + flows.latency


def hops_by_networkx(topology, source):
    """Links on the shortest route from one rank to every other, devices not forwarding."""
    graph = nx.DiGraph()
    for start, stop in zip(topology.link_source.tolist(), topology.link_target.tolist(), strict=True):
        if start == source or start >= topology.num_ranks:
            graph.add_edge(start, stop)
    hops = nx.single_source_shortest_path_length(graph, source) if source in graph else {}
    return {rank: hops[rank] for rank in range(topology.num_ranks) if rank != source and rank in hops}


def check_route(topology, source, destination, links):
    """A route leaves its source, enters its destination, has no gap and passes no device."""
    starts, stops = topology.link_source[links].tolist(), topology.link_target[links].tolist()
    assert starts[0] == source
    assert stops[-1] == destination
    assert starts[1:] == stops[:-1]
    assert all(topology.vertex_kinds[vertex] != "device" for vertex in stops[:-1])
    assert len(set(stops)) == len(stops)


def all_pairs(num_ranks):
    """Every (source, destination) that differ."""
    return np.nonzero(~np.eye(num_ranks, dtype=bool))
