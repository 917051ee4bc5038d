"""Largest rates of a lab: the factor at which the network, not the processor, is the limit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from smoes_sim.errors import TopologyError
from smoes_sim.topology import Topology

COMFORTABLE = 320e6
"""B/s, summed over all wires that a byte crosses, that leaves two cores time for the programs (docs/how-to/lab.md)."""
MOST = 600e6
"""B/s, counted in the same way, beyond which two cores were too slow even for plain TCP (docs/how-to/lab.md)."""
SLOWEST = 1.25e6
"""B/s of the slowest useful link: at 10 Mb/s one packet of 9 kB takes 7 ms."""
_STEPS = (5.0, 2.0, 1.0)
Pair = tuple[int, int]


def choose_scale(
    topology: Topology,
    segments: list[tuple[int, ...]],
    crossing: dict[Pair, list[int]],
    *,
    scale: float | None,
) -> tuple[float, float]:
    """The factor on all rates and the load that it allows, B/s.

    Without ``scale`` it is the largest of 1, 2 or 5 times a power of ten, at most 1, whose load stays below
    :data:`COMFORTABLE`.

    Raises:
        TopologyError: If the load is more than the box pushes, or the slowest link would be too slow.
    """
    bandwidth = np.array([narrowest(topology, segment) for segment in segments])
    load = _busiest(bandwidth, crossing)
    slowest = float(bandwidth.min())
    factor = min(_round_down(COMFORTABLE / load), 1.0) if scale is None else scale
    if not (math.isfinite(factor) and factor > 0):
        raise TopologyError(f"scale = {factor} is not a positive number. Leave it out for the default.")
    if load * factor > MOST:
        raise TopologyError(
            f"{topology.name}: at scale {factor:g} its {topology.num_ranks} ranks keep {_gbps(load * factor)} Gb/s busy "
            f"over all wires, two cores carry {_gbps(MOST)}. Use --scale {_round_down(COMFORTABLE / load):g}."
        )
    if slowest * factor < SLOWEST:
        raise TopologyError(
            f"{topology.name}: at scale {factor:g} its {topology.num_ranks} ranks leave {slowest * factor * 8e-6:.3g} Mb/s "
            f"for the slowest link, at least {SLOWEST * 8e-6:.3g} are needed. Use fewer ranks, or rates less far apart."
        )
    return factor, load * factor


def scaled_topology(topology: Topology, factor: float, *, has_delay: bool) -> tuple[Topology, tuple[str, ...]]:
    """The topology that a lab can have, and the parts that had to be left out, in words."""
    left_out = []
    latency = topology.link_latency
    if not has_delay and latency.any():
        left_out.append(f"latency (up to {latency.max() * 1e6:.3g} us a link): this kernel cannot delay packets (netem)")
        latency = np.zeros_like(latency)
    limited = np.isfinite(topology.incast_flows)
    if limited.any():
        left_out.append(f"incast (of {int(limited.sum())} links): queues here are deep and lose nothing")
    scaled = dataclasses.replace(
        topology,
        link_bandwidth=topology.link_bandwidth * factor,
        link_latency=latency.copy(),
        incast_flows=np.full_like(topology.incast_flows, np.inf),
        incast_efficiency=np.ones_like(topology.incast_efficiency),
    )
    return scaled, tuple(left_out)


def narrowest(topology: Topology, segment: tuple[int, ...]) -> float:
    """Bandwidth of consecutive links, B/s; infinite if all are fatpipes."""
    ids = np.array(segment)
    return float(topology.link_bandwidth[ids[topology.link_shared[ids]]].min(initial=np.inf))


def _busiest(bandwidth: np.ndarray, crossing: dict[Pair, list[int]]) -> float:
    """Most bytes per second that all wires together can carry, each byte counted on every wire that it crosses.

    A linear program over the rates of all pairs: maximise the sum of rate times wires, no wire above its bandwidth.
    """
    hops = np.array([len(indices) for indices in crossing.values()])
    rows = np.concatenate([np.array(indices) for indices in crossing.values()])
    columns = np.repeat(np.arange(len(hops)), hops)
    limited = np.isfinite(bandwidth)
    matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(bandwidth), len(hops)))[np.flatnonzero(limited)]
    solution = linprog(-hops, A_ub=matrix, b_ub=bandwidth[limited] / bandwidth[limited].max(), method="highs")
    return float(-solution.fun * bandwidth[limited].max())


def _round_down(value: float) -> float:
    power = math.floor(math.log10(value))
    return next(step for step in _STEPS if step * 10.0**power <= value) * 10.0**power


def _gbps(rate: float) -> str:
    return f"{rate * 8e-9:.3g}"
