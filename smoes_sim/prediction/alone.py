"""Times of the exchanges of a step, each alone on the network, and their lower bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import (
    Flows,
    Network,
    RouteSolver,
    SeparateExchanges,
    StaggeredExchange,
    exchange_duration,
    finish_chain,
    is_chain,
    is_one_phase,
    lower_bound,
)
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.engine import Engine
from smoes_sim.step.build import Step
from smoes_sim.step.timeline import LayerExchanges

Reals = NDArray[np.float64]
_EXACT = 512
"""Messages up to which every rate change of an exchange is followed in any case, so that one solution is exact."""
_TOGETHER = 1_000
"""Messages of an exchange, those of 32 ranks, up to which it is solved exactly together with others."""
_MOST_TOGETHER = 200_000
"""Messages of a pass up to which its exchanges are prepared together, at about 100 bytes each."""


class ExchangesAlone:
    """Times exchanges alone on networks; equal networks are asked once, since many sets of constants share one.

    Attributes:
        error: Largest relative error of an exchange that was measured; 0 is exact.
    """

    def __init__(self, engine: Engine, deployment: Deployment) -> None:
        self._is_fast, self._deployment = engine == "fast", deployment
        self._tolerance = deployment.scenario.communication.tolerance
        self._known: dict[tuple[object, ...], tuple[Reals, Reals, float]] = {}
        self._step: Step | None = None
        self._together: list[_Together] = []
        self._is_checked = False
        self.error = 0.0

    def times(self, network: Network, step: Step) -> tuple[Reals, Reals, float]:
        """Seconds of dispatch and combine in each simulated layer, their bounds in each routed layer, and those of groups.

        Args:
            network: The network under a set of constants.
            step: What is sent.

        Returns:
            Arrays of shape (S,) and (L,), and the seconds of one gather and one scatter of every micro-batch.
        """
        if step is not self._step:
            self._step, self._known = step, {}
            self._together = [_Together.of(batch.exchanges, self._deployment) for batch in step.batches]
        key = network.constants
        if key not in self._known:
            self._known[key] = self._timed(network, step)
        return self._known[key]

    def _timed(self, network: Network, step: Step) -> tuple[Reals, Reals, float]:
        deployment, solver = self._deployment, RouteSolver(network)
        bound = np.zeros(len(deployment.moe_layers))
        comm = np.zeros(len(deployment.simulated))
        around = 0.0
        for batch, together in zip(step.batches, self._together, strict=True):
            pairs = batch.exchanges
            if together.routed is not None:
                bound += together.routed.bounds(network).reshape(-1, 2).sum(axis=1)
            else:
                bound += [lower_bound(network, pair.dispatch) + lower_bound(network, pair.combine) for pair in pairs]
            if together.simulated is not None:
                comm += together.simulated.durations(network).reshape(-1, 2).sum(axis=1)
            else:
                chosen = [pairs[row] for row in deployment.simulated.tolist()]
                comm += [self._alone(solver, pair.dispatch) + self._alone(solver, pair.combine) for pair in chosen]
            if batch.group is not None:
                parts = [batch.group.gather, batch.group.scatter]
                around += sum(self._alone(solver, phases) for phases in parts if phases)
        return np.maximum(comm, bound[deployment.simulated]), bound, around

    def _alone(self, solver: RouteSolver, phases: Sequence[Flows]) -> float:
        """Seconds of one exchange that all ranks enter at once; the fast engine checks one of its large ones."""
        network, is_large = solver.network, sum(len(flows) for flows in phases) > _EXACT
        is_simple = is_one_phase(network, phases) and not is_large
        if not is_simple and not (self._is_fast and is_chain(network, phases)):
            return self._judged(network, phases)
        parts = [StaggeredExchange.of(flows) for flows in phases]
        found = float(finish_chain(parts, [solver], np.zeros((1, network.topology.num_ranks))).max())
        if not is_simple and not self._is_checked:
            self._is_checked = True
            self.error = max(self.error, abs(found / self._judged(network, phases) - 1))
        return found

    def _judged(self, network: Network, phases: Sequence[Flows]) -> float:
        """Seconds of one exchange within the tolerance of the scenario."""
        found = exchange_duration(network, phases, tolerance=self._tolerance)
        self.error = max(self.error, found.error_bound)
        return found.duration


@dataclass(frozen=True, slots=True, kw_only=True)
class _Together:
    """Exchanges of a micro-batch that are timed together because they are small; None where they are not.

    Attributes:
        routed: Dispatch and combine of each routed layer, for their bounds.
        simulated: Those of each simulated layer, for their durations.
    """

    routed: SeparateExchanges | None
    simulated: SeparateExchanges | None

    @classmethod
    def of(cls, pairs: Sequence[LayerExchanges], deployment: Deployment) -> _Together:
        """Prepare the exchanges of a micro-batch."""
        network, rows = deployment.network, deployment.simulated.tolist()
        first = [] if not len(pairs) else [*pairs[0].dispatch, *pairs[0].combine]
        if not first or sum(map(len, first)) * len(pairs) > _MOST_TOGETHER:
            return cls(routed=None, simulated=None)
        routed = SeparateExchanges.of([phases for pair in pairs for phases in (pair.dispatch, pair.combine)], network)
        chosen = [phases for row in rows for phases in (pairs[row].dispatch, pairs[row].combine)]
        if network.has_incast or not all(is_one_phase(network, phases) and len(phases[0]) <= _TOGETHER for phases in chosen):
            return cls(routed=routed, simulated=None)
        return cls(routed=routed, simulated=routed if len(rows) == len(pairs) else SeparateExchanges.of(chosen, network))
