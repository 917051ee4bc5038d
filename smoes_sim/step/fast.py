"""A pass without an event loop: a recurrence over the layers, with one fluid solution for each exchange.

Between two exchanges a rank only computes, so its entry into the next one is the end of the last plus the work in between.
Each exchange is solved with these entry times, as if it were alone on the network. The only thing that is lost against the
timeline on SimPy's clock (:mod:`smoes_sim.step.timeline`) is that messages of one exchange share links with those of the
next one, which ranks that finish early have entered. Nothing is lost between two ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, Network, RouteSolver, StaggeredExchange, finish_at_no_cost, finish_chain, is_chain
from smoes_sim.step.legs import Leg, PassInputs, pass_legs
from smoes_sim.step.timeline import LayerExchanges, StepTime

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """A pass under one set of constants.

    Attributes:
        duration: Seconds until the last rank has finished.
        layer_ends: Seconds until the last rank has left each simulated MoE layer, in the order of the pass.
    """

    duration: float
    layer_ends: Times

    @classmethod
    def of(cls, time: StepTime) -> PassTime:
        """What the timeline on SimPy's clock tells of a pass."""
        return cls(duration=time.duration, layer_ends=time.layer_ends)


def can_be_fast(exchanges: Sequence[Sequence[LayerExchanges]], network: Network, *, shared_cores: int | None) -> bool:
    """Whether :func:`fast_passes` can time a step.

    Args:
        exchanges: Those of each micro-batch: there must be one, whose phases follow each other.
        network: Their network, without send buffers.
        shared_cores: Number of cores that all ranks share; must be None.
    """
    if len(exchanges) != 1 or shared_cores is not None or network.send_buffer:
        return False
    return all(is_chain(network, phases) for pair in exchanges[0][:1] for phases in (pair.dispatch, pair.combine))


def fast_passes(inputs: PassInputs) -> tuple[list[PassTime], list[PassTime]]:
    """Times of one pass under each set of constants, as it is and with dispatch and combine at no cost."""
    known = {network.constants: RouteSolver(network) for network in inputs.networks}
    solvers = [known[network.constants] for network in inputs.networks]
    return _passed(inputs, _Travel(solvers)), free_passes(inputs)


def free_passes(inputs: PassInputs) -> list[PassTime]:
    """Times of one pass under each set of constants with dispatch and combine at no cost, of any number of phases; exact."""
    return _passed(inputs, _Travel([RouteSolver(network) for network in inputs.networks], at_no_cost=True))


def _passed(inputs: PassInputs, travel: _Travel) -> list[PassTime]:
    """One pass under each set of constants."""
    clock, ends = np.zeros(()), []
    for leg in pass_legs(inputs):
        clock = clock + leg.before
        if leg.phases:
            clock = np.maximum(travel.done(leg, clock), clock + leg.meanwhile)
        if leg.ends_layer:
            ends.append(clock.max(axis=1))
    durations = clock.max(axis=1).tolist()
    by_set = np.reshape(ends, (len(ends), len(durations))).T
    return [PassTime(duration=duration, layer_ends=end) for duration, end in zip(durations, by_set, strict=True)]


class _Travel:
    """Times exchanges under each of S sets of constants; those around attention are prepared once.

    Args:
        solvers: Of the network under each set.
        at_no_cost: Whether dispatch and combine take no time.
    """

    def __init__(self, solvers: Sequence[RouteSolver], *, at_no_cost: bool = False) -> None:
        self._solvers, self._at_no_cost = solvers, at_no_cost
        self._around: list[tuple[Sequence[Flows], list[StaggeredExchange]]] = []

    def done(self, leg: Leg, entry: Times) -> Times:
        """Seconds until each rank is done with an exchange that it enters at ``entry``, both (S, R)."""
        if leg.is_expert and self._at_no_cost:
            return finish_at_no_cost(leg.phases, entry)
        return finish_chain(self._prepared(leg), self._solvers, entry)

    def _prepared(self, leg: Leg) -> list[StaggeredExchange]:
        for phases, prepared in self._around:
            if phases is leg.phases:
                return prepared
        prepared = [StaggeredExchange.of(flows) for flows in leg.phases]
        if not leg.is_expert:
            self._around.append((leg.phases, prepared))
        return prepared
