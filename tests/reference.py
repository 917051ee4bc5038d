"""Slow and obvious versions of what the package does fast, and the rules that every answer must keep."""

from __future__ import annotations

from fractions import Fraction

import networkx as nx
import numpy as np
from scipy.optimize import linprog

INFINITE = float("inf")


def progressive_filling(routes, capacity, ceiling=None):
    """Max-min rates in exact fractions: raise all rates by the largest step any rule allows, freeze, repeat.

    ``routes`` is a list of lists of links, ``capacity`` maps links to B/s, ``ceiling`` is a list of B/s.
    """
    flows = range(len(routes))
    limit = [INFINITE] * len(routes) if ceiling is None else list(ceiling)
    room = {link: Fraction(capacity[link]) for route in routes for link in route}
    rate = [Fraction(0) for _ in flows]
    rising = set(flows)
    while rising:
        on = {link: [f for f in rising if link in routes[f]] for link in room}
        steps = [room[link] / len(on[link]) for link in room if on[link]]
        steps += [Fraction(limit[f]) - rate[f] for f in rising if limit[f] < INFINITE]
        step = min(steps)
        for f in rising:
            rate[f] += step
        for link in room:
            room[link] -= step * len(on[link])
        full = {link for link in room if on[link] and room[link] == 0}
        rising = {f for f in rising if not full & set(routes[f]) and rate[f] != limit[f]}
    return np.array([float(r) for r in rate])


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
