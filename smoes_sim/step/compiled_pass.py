"""The exact times of a pass in compiled code, for the steps that the fast engine can time and few messages an exchange.

Equal to the timeline on SimPy's clock with tolerance 0 (:mod:`smoes_sim.step.timeline`), whatever overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import ExchangeSequence, Network, has_numba
from smoes_sim.step.fast import PassTime, can_be_fast
from smoes_sim.step.legs import Leg, PassInputs, pass_legs
from smoes_sim.step.timeline import LayerExchanges

Times = NDArray[np.float64]
_MOST_COMPILED = 1_000
"""Messages of an exchange, those of 32 ranks, up to which compiled code finds the exact times. It takes at most twice the
time of the fast engine, which would be compared with the exact one besides; with four times as many messages it takes twice
that of windows on SimPy's clock."""


def can_be_compiled(exchanges: Sequence[Sequence[LayerExchanges]], network: Network, *, shared_cores: int | None) -> bool:
    """Whether :func:`compiled_passes` can time a step: as the fast engine, with one phase of few messages, no incast.

    Args:
        exchanges: Those of each micro-batch.
        network: Their network.
        shared_cores: Number of cores that all ranks share, if they do.
    """
    first = [phases for layers in exchanges for pair in layers[:1] for phases in (pair.dispatch, pair.combine)]
    is_small = all(len(phases) == 1 and len(phases[0]) <= _MOST_COMPILED for phases in first)
    return has_numba() and is_small and not network.has_incast and can_be_fast(exchanges, network, shared_cores=shared_cores)


def compiled_passes(inputs: PassInputs) -> tuple[list[PassTime], list[PassTime]]:
    """Exact times of one pass under each set of constants, as it is and with dispatch and combine at no cost."""
    *legs, end = pass_legs(inputs)
    networks = inputs.networks
    if not legs:
        alone = [PassTime(duration=float(work.max()), layer_ends=np.empty(0)) for work in end.before]
        return alone, alone
    sequence = ExchangeSequence.of([leg.phases[0] for leg in legs], networks[0])
    is_expert = np.array([leg.is_expert for leg in legs])
    found = [
        _pass_time(sequence, network, legs, end, index, is_free=is_expert & at_no_cost)
        for at_no_cost in (False, True)
        for index, network in enumerate(networks)
    ]
    return found[: len(networks)], found[len(networks) :]


def _pass_time(
    sequence: ExchangeSequence, network: Network, legs: Sequence[Leg], end: Leg, index: int, *, is_free: NDArray[np.bool_]
) -> PassTime:
    """A pass under the set of constants with an ``index``."""
    before, meanwhile = np.stack([leg.before[index] for leg in legs]), np.stack([leg.meanwhile[index] for leg in legs])
    left = sequence.left(network, before, meanwhile, is_free=is_free)
    ends = left[[leg.ends_layer for leg in legs]].max(axis=1)
    return PassTime(duration=float((left[-1] + end.before[index]).max()), layer_ends=ends)
