"""When everything in a step happens: SimPy processes of ranks over the layers of the model.

Per MoE layer: attention, gate, dispatch, routed experts, combine; shared experts before dispatch, or with
``shared_expert`` overlap while tokens travel; with ``two_batch`` the tokens of every rank go through in two halves, one of
which computes while the other travels. A rank starts its experts when all it receives has arrived, and its next layer when
its own results are back; nobody waits for a barrier, so stragglers are seen where they bite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.cores import Cores
from smoes_sim.models import ModelShape
from smoes_sim.network import Engine, Exchange, Flows, LinkUse, Network, Processes, announce, take_part

Overlap = Literal["none", "shared_expert", "two_batch"]


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
class MicroBatch:
    """Tokens that go through the layers together: what ranks compute, and one entry per MoE layer of what they send."""

    times: ComputeTimes
    exchanges: Sequence[LayerExchanges]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A simulated step.

    Attributes:
        duration: Seconds until the last rank is done.
        finish: Seconds until each rank is done, (R,).
        spans: What every rank did.
        link_use: Utilisation of every link from each rate change on; empty unless asked for.
        lateness: Longest time by which a message waited for the end of a window (see ``Engine``), seconds; 0 if exact.
    """

    duration: float
    finish: NDArray[np.float64]
    spans: tuple[Span, ...]
    link_use: tuple[LinkUse, ...]
    lateness: float


def step_time(
    model: ModelShape,
    batches: Sequence[MicroBatch],
    network: Network,
    *,
    overlap: Overlap = "none",
    record_links: bool = False,
    tolerance: float = 0.0,
    shared_cores: int | None = None,
) -> StepTime:
    """Simulate one step.

    Args:
        model: Says which layers are MoE.
        batches: Micro-batches, which share the ranks' devices and the network; no exchanges for a dense model.
        network: Carries the exchanges.
        overlap: Whether shared experts run while tokens travel.
        record_links: Keep the utilisation of links over time.
        tolerance: Relative error aimed at in large exchanges.
        shared_cores: Cores on which all ranks compute in turns; left out: each has a device of its own.
    """
    env = simpy.Environment()
    layers = [layer for batch in batches for layer in batch.exchanges]
    phases = [flows for layer in layers for flows in (*layer.dispatch, *layer.combine)]
    engine = Engine(env, network, phases, tolerance=tolerance, record_links=record_links)
    cores = None if shared_cores is None else Cores(env, shared_cores)
    step = _Step(engine, model=model, overlap=overlap, cores=cores)
    for batch in batches:
        step.start(batch)
    env.run()
    return StepTime(
        duration=float(step.finish.max()),
        finish=step.finish,
        spans=tuple(step.spans),
        link_use=tuple(engine.link_use),
        lateness=engine.lateness,
    )


class _Work(NamedTuple):
    """Something a device does."""

    layer: int
    name: str
    duration: float


class _Step:
    """The processes of one step: a device per rank, and per rank a process for each of its micro-batches."""

    def __init__(self, engine: Engine, *, model: ModelShape, overlap: Overlap, cores: Cores | None) -> None:
        self.cores = cores
        self.env, self.engine, self.overlap = engine.env, engine, overlap
        self.num_layers = model.layers
        self.moe_index = {layer: index for index, layer in enumerate(model.moe_layer_indices)}
        num_ranks = engine.network.topology.num_ranks
        self.finish = np.zeros(num_ranks)
        self.spans: list[Span] = []
        self._devices = [simpy.Resource(self.env) for _ in range(num_ranks)]

    def start(self, batch: MicroBatch) -> None:
        """Start every rank on a micro-batch."""
        opened = [
            (self.engine.open_all(layer.dispatch), self.engine.open_all(layer.combine))
            for layer in batch.exchanges
        ]
        for rank in range(len(self.finish)):
            self.env.process(self._run(rank, batch.times, opened))

    def _run(self, rank: int, times: ComputeTimes, opened: Sequence[tuple[list[Exchange], list[Exchange]]]) -> Processes:
        """A micro-batch on one rank; work that nothing interrupts is done in one go."""
        todo: list[_Work] = []
        for layer in range(self.num_layers):
            todo.append(_Work(layer, "attention", float(times.attention[rank])))
            if layer not in self.moe_index:
                todo.append(_Work(layer, "dense", float(times.dense[rank])))
                continue
            index = self.moe_index[layer]
            dispatch, combine = opened[index]
            todo.append(_Work(layer, "gate", float(times.gate[rank])))
            shared = _Work(layer, "shared", float(times.shared[rank]))
            meanwhile = [shared] if self.overlap == "shared_expert" else []
            before = todo if meanwhile else [*todo, shared]
            yield from self._exchange(rank, "dispatch", dispatch, before=before, meanwhile=meanwhile)
            experts = _Work(layer, "experts", float(times.experts[index, rank]))
            yield from self._exchange(rank, "combine", combine, before=[experts], meanwhile=[])
            todo = []
        yield from self._compute(rank, [*todo, _Work(self.num_layers, "head", float(times.head[rank]))], then=())
        self.finish[rank] = max(self.finish[rank], self.env.now)

    def _exchange(
        self, rank: int, name: str, phases: list[Exchange], *, before: list[_Work], meanwhile: list[_Work]
    ) -> Processes:
        """Compute, then exchange, computing something else while that is under way."""
        yield from self._compute(rank, before, then=phases)
        travel = self.env.process(self._travel(rank, before[-1].layer, name, phases))
        yield from self._compute(rank, meanwhile, then=())
        yield travel

    def _travel(self, rank: int, layer: int, name: str, phases: list[Exchange]) -> Processes:
        start = self.env.now
        yield from take_part(self.engine, phases, rank)
        size = sum(float(phase.bytes_sent[rank]) for phase in phases)
        self.spans.append(Span(rank=rank, layer=layer, name=name, start=start, end=self.env.now, size=size))

    def _compute(self, rank: int, work: list[_Work], *, then: Sequence[Exchange]) -> Processes:
        """Work on the rank's device once it is free; the network hears at once when the exchange behind will begin."""
        work = [part for part in work if part.duration > 0]
        if not work:
            announce(self.engine, then, rank, at=self.env.now)
            return
        with self._devices[rank].request() as turn:
            yield turn
            if self.cores is not None:
                yield from self._take_turns(rank, work, self.cores)
                announce(self.engine, then, rank, at=self.env.now)
                return
            start = self.env.now
            for part in work:
                end = start + part.duration
                self.spans.append(Span(rank=rank, layer=part.layer, name=part.name, start=start, end=end))
                start = end
            announce(self.engine, then, rank, at=start)
            yield self.env.timeout(start - self.env.now)

    def _take_turns(self, rank: int, work: Sequence[_Work], cores: Cores) -> Processes:
        """Work on cores that others use too: when it ends is known when it has ended."""
        for part in work:
            start = self.env.now
            yield from cores.work(part.duration)
            self.spans.append(Span(rank=rank, layer=part.layer, name=part.name, start=start, end=self.env.now))
