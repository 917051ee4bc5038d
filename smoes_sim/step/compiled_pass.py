"""The exact times of a pass in compiled code, for the steps that the fast engine can time and few messages an exchange.

Equal to the timeline on SimPy's clock with tolerance 0 (:mod:`smoes_sim.step.timeline`), whatever overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.network import ExchangeSequence, Network, has_numba
from smoes_sim.step.fast import PassTime, can_be_fast
from smoes_sim.step.layers import PassLayer
from smoes_sim.step.legs import Leg, pass_legs
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, MicroBatch, Overlap

Times = NDArray[np.float64]
_MOST_COMPILED = 1_000
"""Messages of an exchange, those of 32 ranks, up to which compiled code finds the exact times. It takes at most twice the
time of the fast engine, which would be compared with the exact one besides; with four times as many messages it takes twice
that of windows on SimPy's clock."""


def can_be_compiled(batches: Sequence[MicroBatch], network: Network, *, shared_cores: int | None) -> bool:
    """Whether :func:`compiled_passes` can time a step: as the fast engine, with one phase of few messages, no incast."""
    topology = network.topology
    has_incast = bool((np.isfinite(topology.incast_flows) & (topology.incast_efficiency < 1)).any())
    pairs = [pair for batch in batches for pair in batch.exchanges[:1]]
    first = [phases for pair in pairs for phases in (pair.dispatch, pair.combine)]
    is_small = all(len(phases) == 1 and len(phases[0]) <= _MOST_COMPILED for phases in first)
    return has_numba() and is_small and not has_incast and can_be_fast(batches, network, shared_cores=shared_cores)


def compiled_passes(
    exchanges: Sequence[LayerExchanges],
    group: GroupExchanges | None,
    times: Sequence[ComputeTimes],
    networks: Sequence[Network],
    layers: Sequence[PassLayer],
    *,
    overlap: Overlap,
    shares_feed_forward: bool = False,
) -> tuple[list[PassTime], list[PassTime]]:
    """Exact times of one pass under several sets of constants, as they are and with dispatch and combine at no cost.

    Args:
        exchanges: Dispatch and combine of each MoE layer, each of one phase.
        group: Exchanges around attention; None without attention groups.
        times: Compute times under each set of constants.
        networks: The network under each set of constants.
        layers: Layers of the pass, in order.
        overlap: What computes while tokens travel: ``none`` or ``shared_expert``.
        shares_feed_forward: Whether the group also shares dense layers.
    """
    *legs, end = pass_legs(exchanges, group, times, layers, overlap=overlap, shares_feed_forward=shares_feed_forward)
    if not legs:
        alone = [PassTime(duration=float(work.max()), layer_ends=np.empty(0)) for work in end.before]
        return alone, alone
    sequence = ExchangeSequence.of([leg.flows for leg in legs if leg.flows is not None], networks[0])
    is_expert = np.array([leg.is_expert for leg in legs])
    found = [
        _pass_time(sequence, network, legs, end, index, is_free=is_expert & at_no_cost)
        for at_no_cost in (False, True)
        for index, network in enumerate(networks)
    ]
    return found[: len(times)], found[len(times) :]


def _pass_time(
    sequence: ExchangeSequence, network: Network, legs: Sequence[Leg], end: Leg, index: int, *, is_free: NDArray[np.bool_]
) -> PassTime:
    """A pass under the set of constants with an ``index``."""
    before, meanwhile = np.stack([leg.before[index] for leg in legs]), np.stack([leg.meanwhile[index] for leg in legs])
    left = sequence.left(network, before, meanwhile, is_free=is_free)
    ends = left[[leg.ends_layer for leg in legs]].max(axis=1)
    return PassTime(duration=float((left[-1] + end.before[index]).max()), layer_ends=ends)
