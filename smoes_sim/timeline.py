"""When everything in a step happens: a SimPy process per rank over the layers of the model.

Per MoE layer: attention, gate, dispatch, routed experts, combine; shared experts before dispatch, or with
``shared_expert`` overlap while tokens travel. A rank starts its experts when all it receives has arrived, and its next layer
when its own results are back; nobody waits for a barrier, so stragglers are seen where they bite.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.models import ModelShape
from smoes_sim.network import BatchEngine, Engine, Exchange, Flows, LinkUse, Network, make_engine, open_phases, take_part

Overlap = Literal["none", "shared_expert"]
Processes = Generator[simpy.Event, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something a rank does from ``start`` to ``end``, seconds; ``size`` in bytes for an exchange, else 0."""

    rank: int
    layer: int
    name: str
    start: float
    end: float
    size: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExchanges:
    """Phases of dispatch and of combine in one MoE layer."""

    dispatch: Sequence[Flows]
    combine: Sequence[Flows]

    def at_no_cost(self) -> LayerExchanges:
        """The same exchanges for a network that takes no time."""
        return LayerExchanges(
            dispatch=[flows.at_no_cost() for flows in self.dispatch],
            combine=[flows.at_no_cost() for flows in self.combine],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A simulated step.

    Attributes:
        duration: Seconds until the last rank is done.
        finish: Seconds until each rank is done, (R,).
        spans: What every rank did.
        link_use: Utilisation of every link from each rate change on; empty unless asked for.
        error_bound: Largest relative error of an exchange's end (see ``FluidTimes``); 0 is exact.
        lateness: Largest time by which a rank was held back by batching (see ``BatchEngine``), seconds.
    """

    duration: float
    finish: NDArray[np.float64]
    spans: tuple[Span, ...]
    link_use: tuple[LinkUse, ...]
    error_bound: float
    lateness: float


def step_time(
    model: ModelShape,
    times: ComputeTimes,
    exchanges: Sequence[LayerExchanges],
    network: Network,
    *,
    overlap: Overlap = "none",
    record_links: bool = False,
    tolerance: float = 0.0,
) -> StepTime:
    """Simulate one step.

    Args:
        model: Says which layers are MoE.
        times: Compute seconds per rank.
        exchanges: One entry per MoE layer; empty for a dense model.
        network: Carries the exchanges.
        overlap: Whether shared experts run while tokens travel.
        record_links: Keep the utilisation of links over time.
        tolerance: Relative error aimed at in large exchanges.
    """
    env = simpy.Environment()
    phases = [flows for layer in exchanges for flows in (*layer.dispatch, *layer.combine)]
    engine = make_engine(env, network, phases, tolerance=tolerance, record_links=record_links)
    run = _Step(engine, model=model, times=times, exchanges=exchanges, overlap=overlap)
    for rank in range(network.topology.num_ranks):
        env.process(run.rank(rank))
    env.run()
    return StepTime(
        duration=float(run.finish.max()),
        finish=run.finish,
        spans=tuple(run.spans),
        link_use=tuple(engine.link_use),
        error_bound=engine.error_bound,
        lateness=engine.lateness,
    )


class _Step:
    """The processes of one step."""

    def __init__(
        self,
        engine: Engine | BatchEngine,
        *,
        model: ModelShape,
        times: ComputeTimes,
        exchanges: Sequence[LayerExchanges],
        overlap: Overlap,
    ) -> None:
        self.env = engine.env
        self.times, self.engine, self.overlap = times, engine, overlap
        self.num_layers = model.layers
        self.moe_index = {layer: index for index, layer in enumerate(model.moe_layer_indices)}
        self.finish = np.zeros(engine.network.topology.num_ranks)
        self.spans: list[Span] = []
        self._dispatch = [open_phases(engine, layer.dispatch) for layer in exchanges]
        self._combine = [open_phases(engine, layer.combine) for layer in exchanges]

    def rank(self, rank: int) -> Processes:
        """The step of one rank."""
        for layer in range(self.num_layers):
            yield from self._compute(rank, layer, "attention", self.times.attention[rank])
            if layer in self.moe_index:
                yield from self._moe(rank, layer, self.moe_index[layer])
            else:
                yield from self._compute(rank, layer, "dense", self.times.dense[rank])
        yield from self._compute(rank, self.num_layers, "head", self.times.head[rank])
        self.finish[rank] = self.env.now

    def _moe(self, rank: int, layer: int, index: int) -> Processes:
        yield from self._compute(rank, layer, "gate", self.times.gate[rank])
        if self.overlap == "none":
            yield from self._compute(rank, layer, "shared", self.times.shared[rank])
        shared_done = self.env.now + (float(self.times.shared[rank]) if self.overlap == "shared_expert" else 0.0)
        if shared_done > self.env.now:
            self.spans.append(Span(rank=rank, layer=layer, name="shared", start=self.env.now, end=shared_done))
        yield from self._exchange(rank, layer, "dispatch", self._dispatch[index])
        if self.env.now < shared_done:
            yield self.env.timeout(shared_done - self.env.now)
        yield from self._compute(rank, layer, "experts", self.times.experts[index, rank])
        yield from self._exchange(rank, layer, "combine", self._combine[index])

    def _compute(self, rank: int, layer: int, name: str, duration: float) -> Processes:
        if duration > 0:
            start = self.env.now
            yield self.env.timeout(float(duration))
            self.spans.append(Span(rank=rank, layer=layer, name=name, start=start, end=self.env.now))

    def _exchange(self, rank: int, layer: int, name: str, phases: list[Exchange]) -> Processes:
        start = self.env.now
        yield from take_part(self.engine, phases, rank)
        size = sum(float(phase.flows.size[phase.flows.source == rank].sum()) for phase in phases)
        self.spans.append(Span(rank=rank, layer=layer, name=name, start=start, end=self.env.now, size=size))
