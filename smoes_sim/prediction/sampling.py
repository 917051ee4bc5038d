"""Which layers and steps of a deployment are routed and simulated.

All of them where they are few. Otherwise evenly spaced ones: of the MoE layers those that are *routed* (and placed, their
bytes counted), and of these the *simulated* ones, whose exchanges are solved; see :mod:`smoes_sim.prediction.estimate`
for the totals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Schedule
from smoes_sim.step.build import DECODE_STEPS

_MOST_SLOTS = 50_000_000
"""Routed tokens of all routed layers together: about a second of routing, and 100 MB."""
_FEWEST_ROUTED = 8
"""MoE layers that are routed at least."""
MOST_CHUNKS = 16
"""Steps of a chunked prefill that are simulated at most."""
_MOST_FLOWS = 20_000
"""Messages of all simulated layers of a pass together, dispatch and combine: 10 layers of 32 ranks."""
_FEWEST_SIMULATED = 6
"""MoE layers that are simulated at least."""
_FEWEST_OF_PHASES = 4
"""The same for exchanges of several phases, which only the event loop can time."""
_FEWEST_STEPS = 3
"""Decode steps that are simulated with large exchanges of several phases."""


def evenly_spaced(number: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of 0, 1, .., number - 1: all, or the middles of as many equal parts.

    Example:
        >>> evenly_spaced(3, 8).tolist(), evenly_spaced(48, 6).tolist()
        ([0, 1, 2], [4, 12, 20, 28, 36, 44])
    """
    if number <= most:
        return np.arange(number)
    return (2 * np.arange(most) + 1) * number // (2 * most)


def routed_layers(num_layers: int, *, num_tokens: int, top_k: int) -> NDArray[np.int64]:
    """MoE layers that are routed, as indices among the MoE layers of the model.

    Args:
        num_layers: Number of MoE layers.
        num_tokens: Tokens of all steps that are simulated.
        top_k: Experts of a token.
    """
    affordable = _MOST_SLOTS // max(num_tokens * top_k, 1)
    return evenly_spaced(num_layers, max(affordable, _FEWEST_ROUTED))


def simulated_layers(num_layers: int, *, num_ranks: int, schedule: Schedule) -> NDArray[np.int64]:
    """Rows of the routed MoE layers whose exchanges are simulated.

    Args:
        num_layers: Number of routed MoE layers.
        num_ranks: Number of ranks; each sends to every other one.
        schedule: Schedule of the exchanges.
    """
    flows = 2 * num_ranks * (num_ranks - 1) * _relative_cost(schedule)
    fewest = _FEWEST_SIMULATED if _relative_cost(schedule) == 1 else _FEWEST_OF_PHASES
    return evenly_spaced(num_layers, max(_MOST_FLOWS // max(flows, 1), fewest))


def simulated_steps(*, num_ranks: int, schedule: Schedule) -> int:
    """Number of decode steps that are simulated at most: fewer where exchanges of many phases run on SimPy's clock."""
    is_costly = num_ranks * (num_ranks - 1) * _relative_cost(schedule) > _MOST_FLOWS // 8
    return _FEWEST_STEPS if is_costly and _relative_cost(schedule) > 1 else DECODE_STEPS


def _relative_cost(schedule: Schedule) -> int:
    """Cost of an exchange relative to a direct one, roughly: forwarding cuts messages into parts."""
    return {"two_hop": 8, "hierarchical": 8, "pairwise": 4, "all_to_all_single": 4}.get(schedule, 1)
