"""Between which times an exchange lies, without solving it, and its duration where that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smoes_sim.network.exchange import ExchangeTime, exchange_time, ready_times
from smoes_sim.network.flows import Flows, Network, lower_bound
from smoes_sim.network.fluid.certificate import ends_are_exact, latest_ends
from smoes_sim.network.fluid.problem import Block, Links, Problem, reals
from smoes_sim.network.fluid.solve import FEW_FLOWS
from smoes_sim.network.fluid.waterfill import ONE

ErrorKind = Literal["exact", "certified", "measured"]
"""What the error of a duration rests on: none, a proof (:mod:`~smoes_sim.network.fluid.certificate`), or a comparison with
wider windows."""
_EXACT = 1e-9
"""Bounds closer than this, relatively, are equal: both are sums of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeDuration:
    """How long an exchange takes that all ranks enter at the same time.

    Attributes:
        duration: Seconds until the last rank has finished.
        bound: Lower bound under any schedule, seconds; see ``lower_bound``.
        error_bound: Relative error of the duration; 0 if exact.
        error_kind: What that rests on.
    """

    duration: float
    bound: float
    error_bound: float
    error_kind: ErrorKind

    @classmethod
    def of(cls, found: ExchangeTime) -> ExchangeDuration:
        """That of an exchange that was solved."""
        return cls(
            duration=found.duration,
            bound=found.bound,
            error_bound=found.error_bound,
            error_kind="measured" if found.error_bound else "exact",
        )


def exchange_bounds(network: Network, flows: Flows) -> tuple[float, float]:
    """Proven lower and upper bound of the duration of an exchange of one phase that all ranks enter together, seconds.

    The upper bound is that of :mod:`~smoes_sim.network.fluid.certificate`. The lower bound is the larger one of
    :func:`lower_bound` and the arrival of messages that cross a link that is full from first to last. Both are equal for
    equal blocks and where one link is the bottleneck all the time; for Zipf(1) per source they are 4 to 25% apart.

    Args:
        network: Capacities and constants; sends in kernel buffers and overheads of receives are not covered.
        flows: The messages.

    Example:
        4 ranks on ports of 50 GB/s, 16 MiB a pair: every port is full for 3 * 16777216 B.

        >>> import numpy as np
        >>> from smoes_sim.network import phases_of
        >>> from smoes_sim.topology import find_topology
        >>> network = Network.on(find_topology("lab-star-4"))
        >>> (flows,) = phases_of(network, [np.full((4, 4), 16777216.0)])
        >>> low, high = exchange_bounds(network, flows)
        >>> low == high
        True
    """
    (sized,) = network.sized_all([flows])
    low = lower_bound(network, [sized])
    if not len(flows):
        return low, low
    topology, share = network.topology, flows.routes.share
    problem = Problem(
        flows=Block(
            offsets=flows.routes.offsets,
            links=flows.routes.links,
            weight=ONE if share is None else share,
            size=sized.size,
            ceiling=flows.ceiling,
        ),
        ready=ready_times(network, flows),
        links=Links(
            capacity=network.capacity,
            incast_flows=reals(topology.incast_flows),
            incast_efficiency=reals(topology.incast_efficiency),
        ),
    )
    latest = latest_ends(problem)
    arrival = latest + flows.latency
    low = max(low, float(arrival[ends_are_exact(problem, latest)].max(initial=0.0)))
    return low, max(low, float(arrival.max()))


def exchange_duration(network: Network, phases: Sequence[Flows], *, tolerance: float = 0.0) -> ExchangeDuration:
    """How long an exchange takes that all ranks enter at the same time; solved only where the bounds leave it open.

    Args:
        network: Capacities and constants.
        phases: Messages of each phase, from ``phases_of``.
        tolerance: Relative error to aim at; 0 is exact. Bounds that are as close are not solved: the duration is their
            middle, and the error half of their distance.
    """
    bound = lower_bound(network, phases)
    is_covered = len(phases) == 1 and not (network.send_buffer or network.per_receive)
    if not is_covered or len(phases[0]) <= FEW_FLOWS:
        return ExchangeDuration.of(exchange_time(network, phases, tolerance=tolerance))
    low, high = exchange_bounds(network, phases[0])
    width = (high - low) / (high + low)
    if width <= max(_EXACT, tolerance):
        is_exact = width <= _EXACT
        return ExchangeDuration(
            duration=(low + high) / 2,
            bound=bound,
            error_bound=0.0 if is_exact else width,
            error_kind="exact" if is_exact else "certified",
        )
    found = ExchangeDuration.of(exchange_time(network, phases, tolerance=tolerance))
    proven = max(found.duration / low - 1, 1 - found.duration / high)
    if proven > found.error_bound:
        return found
    return ExchangeDuration(duration=found.duration, bound=bound, error_bound=proven, error_kind="certified")
