"""When every flow has ended at the latest, proven without solving.

Let flow ``f`` have ``s_f`` bytes, cross link ``l`` with the share ``w_fl`` (1 where routes are not split), have the ceiling
``k_f`` and be ready at ``r_f``; ``c_l`` is the capacity of a link. With ``T = max r_f``, flow ``f`` ends at the latest at::

    T + integral over x from 0 to s_f of max(max over l of W_l(x) / c_l, max over g with s_g > x of 1 / k_g) dx
    W_l(x) = sum of w_gl over the flows g with s_g > x

Proof. Let ``g(x)`` be the inverse of the integrand, which rises with ``x``, and ``S(t)`` the solution of ``dS/dt = g(S)``,
``S(T) = 0``. Claim: at each ``t >= T`` every flow has received ``min(s_f, S(t))`` or more. It holds at ``T``. While it
holds, every flow in flight has ``s_f > S(t)``, because it has received less than ``s_f`` and at least ``min(s_f, S(t))``. A
max-min fair flow has its ceiling as its rate, at least ``g(S)``, or a full link ``l`` on which no rate is larger; there
``c_l = sum of w_gl * rate_g <= rate_f * W_l(S)``, so its rate is at least ``c_l / W_l(S) >= g(S)``. No flow that has not
ended thus falls behind ``S``. Flow ``f`` has ended when ``S`` reaches ``s_f``, which takes the integral.

Conditions: rates are max-min fair at all times from ``T`` on; what was sent before ``T`` is not counted. Incast: where more
than ``n_l`` flows lower the capacity to ``e_l * c_l``, ``c_l`` is replaced by that wherever ``W_l(x) > n_l``; with fewer
flows in flight the link delivers more per flow. Jitter and what the transport adds are part of the sizes
(``Network.sized_all``), so they are covered; sends in kernel buffers and exchanges of several phases are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.compilation import uses_compiled
from smoes_sim.network.fluid.compiled_routes import slowest_on_links
from smoes_sim.network.fluid.problem import Problem
from smoes_sim.network.fluid.waterfill import Longs, Reals

_ROUNDING = 1e-12
"""Relative error of sums of floats."""
_SMALL_IDS = 2**16
"""Link ids below this are sorted as 16-bit numbers, which takes a tenth of the time."""


def latest_ends(problem: Problem, *, compiled: bool = True) -> Reals:
    """Upper bound of when each flow ends, seconds, shape (F,); a flow without bytes ends when it is ready.

    Args:
        problem: Flows and links.
        compiled: False to use NumPy only, whatever the size.

    Example:
        A link of 10 B/s with flows of 10 and 30 B: 2 flows up to 10 B and 1 flow up to 30 B, so 2 s and 2 + 20 / 10 s.

        >>> from smoes_sim.network.fluid.problem import Block, Links
        >>> flows = Block(
        ...     offsets=np.array([0, 1, 2]),
        ...     links=np.zeros(2, np.int32),
        ...     weight=np.ones(1),
        ...     size=np.array([10.0, 30.0]),
        ...     ceiling=np.full(2, np.inf),
        ... )
        >>> links = Links.without_incast(np.array([10.0]))
        >>> latest_ends(Problem(flows=flows, ready=np.zeros(2), links=links)).tolist()
        [2.0, 4.0]
    """
    flows = problem.flows
    result = problem.ready.copy()
    order = np.argsort(-flows.size)
    order = order[: np.count_nonzero(flows.size)]
    if not len(order):
        return result
    of_links = (_by_loop if compiled and uses_compiled(len(order)) else _by_arrays)(problem, order)
    slowest = np.maximum.accumulate(np.maximum(of_links, 1 / flows.ceiling[order]))
    size = flows.size[order]
    steps = (size - np.append(size[1:], 0.0)) * slowest
    result[order] = problem.ready[order].max() + np.cumsum(steps[::-1])[::-1]
    return result


def ends_are_exact(problem: Problem, latest: Reals) -> NDArray[np.bool_]:
    """Whether a flow ends exactly at its upper bound, shape (F,): it crosses a link that is full until then.

    All flows are ready at once, and a link of capacity ``c`` needs ``bytes / c`` until the bound of its largest flow. Then
    the integrand is ``W(x) / c`` of that link up to there. At the bound of ``s`` bytes each of its flows has received at
    least ``min(s_g, s)``, together ``sum of w_g * min(s_g, s)``: all that the link can have carried, so no flow has more.
    """
    flows, capacity = problem.flows, problem.links.capacity
    if problem.ready.max(initial=0.0) > problem.ready.min(initial=np.inf):
        return np.zeros(len(latest), dtype=bool)
    length = np.diff(flows.offsets)
    load = np.bincount(flows.links, weights=np.repeat(flows.size, length) * flows.weight, minlength=len(capacity))
    largest = np.zeros(len(capacity))
    np.maximum.at(largest, flows.links, np.repeat(latest, length))
    is_full = problem.ready.max(initial=0.0) + load / capacity >= largest * (1 - _ROUNDING)
    entries = np.concatenate([[0], np.cumsum(is_full[flows.links] & (load[flows.links] > 0))])
    crossed: NDArray[np.bool_] = entries[flows.offsets[1:]] > entries[flows.offsets[:-1]]
    return crossed


def _by_loop(problem: Problem, order: Longs) -> Reals:
    """As :func:`_by_arrays`, compiled."""
    flows, links = problem.flows, problem.links
    return slowest_on_links(
        flows.offsets, flows.links, flows.weight, order, links.capacity, links.incast_flows, links.incast_efficiency
    )


def _by_arrays(problem: Problem, order: Longs) -> Reals:
    """Seconds per byte on the slowest link of each flow, shared by all flows up to it in ``order``, shape (F,)."""
    flows, links = problem.flows, problem.links
    length = np.diff(flows.offsets)[order]
    start = np.cumsum(length) - length
    entry = np.arange(int(length.sum())) + np.repeat(flows.offsets[order] - start, length)
    link = flows.links[entry]
    weight = flows.weight[entry] if len(flows.weight) > 1 else np.broadcast_to(flows.weight, len(entry))
    by_link = np.argsort(link.astype(np.uint16) if len(links.capacity) <= _SMALL_IDS else link, kind="stable")
    total = np.cumsum(weight[by_link])
    sorted_link = link[by_link]
    begins = np.flatnonzero(np.diff(sorted_link, prepend=-1))
    before = np.repeat(total[begins] - weight[by_link][begins], np.diff(begins, append=len(entry)))
    shared = total - before
    capacity = links.capacity[sorted_link]
    crowded = shared > links.incast_flows[sorted_link]
    if crowded.any():
        capacity = np.where(crowded, capacity * links.incast_efficiency[sorted_link], capacity)
    slow = np.zeros(len(entry))
    slow[by_link] = shared / capacity
    result = np.zeros(len(order))
    crossing = np.flatnonzero(length)
    if len(crossing):
        result[crossing] = np.maximum.reduceat(slow, start[crossing])
    return result
