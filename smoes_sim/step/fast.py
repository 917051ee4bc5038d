"""A pass without an event loop: a recurrence over the layers, with one fluid solution for each exchange.

Between two exchanges a rank only computes, so its entry into the next one is the end of the last plus the work in between.
Each exchange is solved with these entry times, as if it were alone on the network. The only thing that is lost against the
timeline on SimPy's clock (:mod:`smoes_sim.step.timeline`) is that messages of one exchange share links with those of the
next one, which ranks that finish early have entered. Nothing is lost between two ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.network import Flows, Network, RouteSolver, StaggeredExchange, finish_at_no_cost, finish_chain, is_chain
from smoes_sim.step.layers import PassLayer
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, MicroBatch, Overlap, StepTime

Times = NDArray[np.float64]
_Travel = Callable[[Times], Times]
"""An exchange: seconds when each rank enters, (S, R), to seconds when it is done."""


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


def can_be_fast(batches: Sequence[MicroBatch], network: Network, *, shared_cores: int | None) -> bool:
    """Whether :func:`fast_passes` can time a step: one micro-batch, phases one after the other, a device for each rank."""
    if len(batches) != 1 or shared_cores is not None:
        return False
    exchanges: list[Sequence[Flows]] = []
    if len(batches[0].exchanges):
        exchanges += [batches[0].exchanges[0].dispatch, batches[0].exchanges[0].combine]
    return all(is_chain(network, phases) for phases in exchanges) and not network.send_buffer


def fast_passes(
    exchanges: Sequence[LayerExchanges],
    group: GroupExchanges | None,
    times: Sequence[ComputeTimes],
    networks: Sequence[Network],
    layers: Sequence[PassLayer],
    *,
    overlap: Overlap,
    shares_feed_forward: bool = False,
) -> tuple[list[PassTime], list[PassTime]]:
    """Times of one pass under several sets of constants, as they are and with dispatch and combine at no cost.

    Args:
        exchanges: Dispatch and combine of each MoE layer, whose phases follow each other.
        group: Exchanges around attention; None without attention groups.
        times: Compute times under each set of constants.
        networks: The network under each set of constants.
        layers: Layers of the pass, in order.
        overlap: What computes while tokens travel: ``none`` or ``shared_expert``.
        shares_feed_forward: Whether the group also shares dense layers.
    """
    real, free = (
        _passed(exchanges, group, times, networks, layers, rules=_Rules(overlap, shares_feed_forward, is_free))
        for is_free in (False, True)
    )
    return real, free


def free_passes(
    exchanges: Sequence[LayerExchanges],
    group: GroupExchanges | None,
    times: Sequence[ComputeTimes],
    networks: Sequence[Network],
    layers: Sequence[PassLayer],
    *,
    overlap: Overlap,
    shares_feed_forward: bool = False,
) -> list[PassTime]:
    """Times of one pass with dispatch and combine at no cost, of any number of phases; exact; arguments as above."""
    return _passed(exchanges, group, times, networks, layers, rules=_Rules(overlap, shares_feed_forward, True))


class _Rules(NamedTuple):
    """What overlaps, whether groups share dense layers, and whether dispatch and combine are at no cost."""

    overlap: Overlap
    shares_feed_forward: bool
    is_free: bool


def _passed(
    exchanges: Sequence[LayerExchanges],
    group: GroupExchanges | None,
    times: Sequence[ComputeTimes],
    networks: Sequence[Network],
    layers: Sequence[PassLayer],
    *,
    rules: _Rules,
) -> list[PassTime]:
    """One pass under each set of constants."""
    num_ranks = networks[0].topology.num_ranks
    around = None if group is None else _around(group, num_ranks)
    known = {network.constants: RouteSolver(network) for network in networks}
    solvers = [known[network.constants] for network in networks]
    run = _Run(times, solvers, around, overlaps_shared=rules.overlap == "shared_expert")
    for layer in layers:
        if layer.moe is None:
            run.dense_layer(rules.shares_feed_forward)
            continue
        pair = exchanges[layer.moe]
        dispatch, combine = (
            partial(finish_at_no_cost, phases)
            if rules.is_free
            else partial(finish_chain, _staggered(phases, num_ranks), solvers)
            for phases in (pair.dispatch, pair.combine)
        )
        run.moe_layer(layer.moe, dispatch, combine)
    return run.result()


_Phases = list[StaggeredExchange]


def _around(group: GroupExchanges, num_ranks: int) -> tuple[_Phases, _Phases]:
    return _staggered(group.gather, num_ranks), _staggered(group.scatter, num_ranks)


def _staggered(phases: Sequence[Flows], num_ranks: int) -> _Phases:
    return [StaggeredExchange.of(flows, num_ranks) for flows in phases]


class _Run:
    """The clocks of all ranks under each of S sets of constants, (S, R)."""

    def __init__(
        self,
        times: Sequence[ComputeTimes],
        solvers: Sequence[RouteSolver],
        around: tuple[_Phases, _Phases] | None,
        *,
        overlaps_shared: bool,
    ) -> None:
        self._solvers, self._around, self._overlaps_shared = solvers, around, overlaps_shared
        self._attention, self._gate, self._shared, self._dense, self._head, self._experts = (
            np.stack([getattr(one, name) for one in times])
            for name in ("attention", "gate", "shared", "dense", "head", "experts")
        )
        self._clock = np.zeros_like(self._attention)
        self._ends: list[Times] = []

    def dense_layer(self, is_shared: bool) -> None:
        """Attention and the feed-forward layer."""
        self._shared_work(self._attention, True)
        self._shared_work(self._dense, is_shared)

    def moe_layer(self, row: int, dispatch: _Travel, combine: _Travel) -> None:
        """Attention, gate, shared experts, dispatch, routed experts, combine."""
        self._shared_work(self._attention, True)
        entry = self._clock + self._gate
        if self._overlaps_shared:
            self._clock = np.maximum(dispatch(entry), entry + self._shared)
        else:
            self._clock = dispatch(entry + self._shared)
        self._clock = combine(self._clock + self._experts[:, row])
        self._ends.append(self._clock.max(axis=1))

    def result(self) -> list[PassTime]:
        """The pass under each set, with the head at its end."""
        durations = (self._clock + self._head).max(axis=1).tolist()
        ends = np.reshape(self._ends, (len(self._ends), len(durations))).T
        return [PassTime(duration=duration, layer_ends=end) for duration, end in zip(durations, ends, strict=True)]

    def _shared_work(self, work: Times, is_shared: bool) -> None:
        """Work, between a gather and a scatter where a group shares it."""
        if self._around is None or not is_shared:
            self._clock = self._clock + work
            return
        gather, scatter = self._around
        self._clock = finish_chain(scatter, self._solvers, finish_chain(gather, self._solvers, self._clock) + work)
