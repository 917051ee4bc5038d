"""Times of the exchanges of a step, each alone on the network, and their lower bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, Network, RouteSolver, StaggeredExchange, exchange_duration, is_one_phase, lower_bound
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.engine import Engine
from smoes_sim.step.build import Step

Reals = NDArray[np.float64]
_EXACT = 512
"""Messages up to which every rate change of an exchange is followed in any case, so that one solution is exact."""


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
        key = network.constants
        if key not in self._known:
            self._known[key] = self._timed(network, step)
        return self._known[key]

    def _timed(self, network: Network, step: Step) -> tuple[Reals, Reals, float]:
        deployment, solver = self._deployment, RouteSolver(network)
        bound = np.zeros(len(deployment.moe_layers))
        comm = np.zeros(len(deployment.simulated))
        around = 0.0
        for batch in step.batches:
            for row in range(len(bound)):
                pair = batch.exchanges[row]
                bound[row] += lower_bound(network, pair.dispatch) + lower_bound(network, pair.combine)
            for place, row in enumerate(deployment.simulated.tolist()):
                pair = batch.exchanges[row]
                comm[place] += self._alone(solver, pair.dispatch) + self._alone(solver, pair.combine)
            if batch.group is not None:
                around += self._alone(solver, batch.group.gather) + self._alone(solver, batch.group.scatter)
        return np.maximum(comm, bound[deployment.simulated]), bound, around

    def _alone(self, solver: RouteSolver, phases: Sequence[Flows]) -> float:
        """Seconds of one exchange that all ranks enter at once; the fast engine checks one of its large ones."""
        network, is_large = solver.network, sum(len(flows) for flows in phases) > _EXACT
        if not is_one_phase(network, phases) or (is_large and not self._is_fast):
            return self._judged(network, phases)
        num_ranks = network.topology.num_ranks
        found = float(StaggeredExchange.of(phases[0], num_ranks).finish(solver, np.zeros(num_ranks)).max())
        if is_large and not self._is_checked:
            self._is_checked = True
            self.error = max(self.error, abs(found / self._judged(network, phases) - 1))
        return found

    def _judged(self, network: Network, phases: Sequence[Flows]) -> float:
        """Seconds of one exchange within the tolerance of the scenario."""
        found = exchange_duration(network, phases, tolerance=self._tolerance)
        self.error = max(self.error, found.error_bound)
        return found.duration
