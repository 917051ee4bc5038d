"""The timeline of a step: SimPy processes of the ranks over the layers of the model.

Per MoE layer: attention, gate, dispatch, routed experts, combine. Where ranks share attention, a gather precedes and a
scatter follows it, in dense layers too, and in dense models around the feed-forward layers as well. Where a sequence is on
several ranks, queries (or keys and values) travel between its projections and its scores, and partial results after them;
with ``attention`` overlap a rank works on the scores that need nothing from others meanwhile. Shared experts run
before dispatch, or with ``shared_expert`` overlap while tokens travel; with ``two_batch`` the tokens of every rank pass in
two halves, one of which computes while the other travels. A rank starts its experts when all that it receives has arrived,
and its next layer when its own results are back. There is no barrier, so a straggler delays only the ranks that wait for
it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.compute import AttentionTimes, ComputeTimes
from smoes_sim.compute.cores import Cores
from smoes_sim.models import ModelShape
from smoes_sim.network import ActivePhase, Engine, Flows, LinkUse, Network, Processes, enter_exchange, finish_exchange
from smoes_sim.step.layers import PassLayer, pass_layers

Floats = NDArray[np.float64]
Overlap = Literal["none", "shared_expert", "two_batch", "attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An activity of a rank from ``start`` to ``end``, seconds; ``size`` is the bytes it sends in an exchange, else 0."""

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
        """The same exchanges for :meth:`Network.at_no_cost`."""
        return LayerExchanges(
            dispatch=[flows.at_no_cost() for flows in self.dispatch],
            combine=[flows.at_no_cost() for flows in self.combine],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupExchanges:
    """Phases of the exchanges around the attention of a layer, the same in every layer.

    Attributes:
        gather: Before the work that a group shares, or before the scores of a sequence that lives on several ranks.
        scatter: After it; none where keys and values travel.
        is_spread: Whether only scores are between the two, not the projections.
    """

    gather: Sequence[Flows]
    scatter: Sequence[Flows]
    is_spread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Tokens that pass the layers together: compute times and exchanges.

    Attributes:
        times: Seconds of each part on each rank.
        exchanges: Dispatch and combine, one entry per MoE layer.
        group: Exchanges around attention (and the feed-forward layers of a dense model); None without attention groups.
    """

    times: ComputeTimes
    exchanges: Sequence[LayerExchanges]
    group: GroupExchanges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A simulated step.

    Attributes:
        duration: Seconds until the last rank has finished.
        finish: Seconds until each rank has finished, shape (R,).
        spans: Activities of all ranks.
        link_use: Utilisation of every link from each rate change on; empty unless recorded.
        lateness: Longest wait of a message for the end of a window (see ``Engine``), seconds; 0 if exact.
        layer_ends: Seconds until the last rank has left each simulated MoE layer, in the order of the pass.
    """

    duration: float
    finish: NDArray[np.float64]
    spans: tuple[Span, ...]
    link_use: tuple[LinkUse, ...]
    lateness: float
    layer_ends: NDArray[np.float64]


def step_time(
    model: ModelShape,
    batches: Sequence[MicroBatch],
    network: Network,
    *,
    overlap: Overlap = "none",
    record_links: bool = False,
    tolerance: float = 0.0,
    expert_network: Network | None = None,
    shared_cores: int | None = None,
    layers: Sequence[PassLayer] | None = None,
) -> StepTime:
    """Simulate one step.

    Args:
        model: Shape of the model, with the places of its MoE layers.
        batches: Micro-batches, which share the ranks' devices and the network; no exchanges for a dense model.
        network: Network of the exchanges.
        overlap: What computes while tokens travel.
        record_links: Record the utilisation of links over time.
        tolerance: Relative error to aim at in large exchanges; 0 is exact.
        expert_network: Network of dispatch and combine, apart from ``network``. Default: the same network.
        shared_cores: Number of cores that all ranks share. Default: each rank has a device of its own.
        layers: Layers of the pass, in order. Default: all of the model, whose MoE layers the exchanges then are.

    Returns:
        Finish times and activities of all ranks.

    Example:
        Two ranks, one layer: 1 s of attention, 5 B at 1 B/s and 2 s of latency, 3 s of experts, 5 B back and 2 s:
        1 + 7 + 3 + 7 = 18 s (``tests/step/test_timeline.py`` has more steps by hand).
    """
    env = simpy.Environment()
    layers = pass_layers(model) if layers is None else layers
    exchanges = [batch.exchanges[layer.moe] for batch in batches for layer in layers if layer.moe is not None]
    phases = [flows for exchange in exchanges for flows in (*exchange.dispatch, *exchange.combine)]
    groups = [batch.group for batch in batches if batch.group is not None]
    phases += [flows for group in groups for flows in (*group.gather, *group.scatter)]
    engine = Engine(env, network, phases, tolerance=tolerance, record_links=record_links)
    experts = engine if expert_network is None else Engine(env, expert_network, phases, tolerance=tolerance)
    cores = None if shared_cores is None else Cores(env, shared_cores)
    step = _Step(engine, experts, layers, shares_feed_forward=model.shares_feed_forward, overlap=overlap, cores=cores)
    for batch in batches:
        step.start(batch)
    env.run()
    return StepTime(
        duration=float(step.finish.max()),
        finish=step.finish,
        spans=tuple(step.spans),
        link_use=tuple(engine.link_use),
        lateness=engine.lateness,
        layer_ends=step.ends[[layer.moe is not None for layer in layers]],
    )


class _Work(NamedTuple):
    """A piece of work of a device."""

    layer: int
    name: str
    duration: float


class _Opened(NamedTuple):
    """Phases of an exchange, and the engine that times them."""

    engine: Engine
    phases: list[ActivePhase]


class _Around(NamedTuple):
    """The exchanges around work, opened; no scatter where nothing comes back."""

    gather: _Opened
    scatter: _Opened | None
    is_spread: bool


class _Step:
    """The processes of one step: a device per rank, and per rank a process for each of its micro-batches."""

    def __init__(
        self,
        engine: Engine,
        experts: Engine,
        layers: Sequence[PassLayer],
        *,
        shares_feed_forward: bool,
        overlap: Overlap,
        cores: Cores | None,
    ) -> None:
        self._cores = cores
        self.env, self.overlap = engine.env, overlap
        self._engine, self._experts = engine, experts
        self._layers, self._shares_feed_forward = layers, shares_feed_forward
        num_ranks = engine.network.topology.num_ranks
        self.finish = np.zeros(num_ranks)
        self.ends = np.zeros(len(layers))
        self.spans: list[Span] = []
        self._devices = [simpy.Resource(self.env) for _ in range(num_ranks)]

    def start(self, batch: MicroBatch) -> None:
        """Start the process of every rank for a micro-batch."""
        experts = [self._open_experts(batch, layer) for layer in self._layers]
        group = batch.group
        attention = self._open_around(group)
        feed_forward = self._open_around(group if self._shares_feed_forward else None)
        for rank in range(len(self.finish)):
            self.env.process(self._run(rank, batch.times, experts, attention, feed_forward))

    def _open_experts(self, batch: MicroBatch, layer: PassLayer) -> tuple[_Opened, _Opened] | None:
        if layer.moe is None:
            return None
        exchange = batch.exchanges[layer.moe]
        return _open(self._experts, exchange.dispatch), _open(self._experts, exchange.combine)

    def _open_around(self, group: GroupExchanges | None) -> list[_Around | None]:
        """A gather and a scatter for each layer; None for each layer without an attention group."""
        if group is None:
            return [None] * len(self._layers)
        return [
            _Around(
                gather=_open(self._engine, group.gather),
                scatter=_open(self._engine, group.scatter) if group.scatter else None,
                is_spread=group.is_spread,
            )
            for _ in self._layers
        ]

    def _run(
        self,
        rank: int,
        times: ComputeTimes,
        experts: Sequence[tuple[_Opened, _Opened] | None],
        around_attention: Sequence[_Around | None],
        around_feed_forward: Sequence[_Around | None],
    ) -> Processes:
        """Process of a micro-batch on one rank; work without an exchange in between is one piece."""
        todo: list[_Work] = []
        for place, layer in enumerate(self._layers):
            todo = yield from self._attention(rank, layer, times.attention, around_attention[place], before=todo)
            opened = experts[place]
            if opened is None:
                dense = _Work(layer.number, "dense", float(times.dense[rank]))
                todo = yield from self._shared(rank, [dense], around_feed_forward[place], before=todo)
                continue
            yield from self._experts_of(rank, layer, times, opened, before=todo)
            self.ends[place] = max(self.ends[place], self.env.now)
            todo = []
        last = self._layers[-1].number + 1 if self._layers else 0
        yield from self._compute(rank, [*todo, _Work(last, "head", float(times.head[rank]))], then=None)
        self.finish[rank] = max(self.finish[rank], self.env.now)

    def _attention(
        self, rank: int, layer: PassLayer, times: AttentionTimes, around: _Around | None, *, before: list[_Work]
    ) -> Generator[simpy.Event, object, list[_Work]]:
        """Attention with its exchanges, if it has any; returns the work that remains to be done after it."""

        def work(name: str, seconds: Floats) -> _Work:
            return _Work(layer.number, name, float(seconds[layer.kind, rank]))

        if around is None or not around.is_spread:
            return (yield from self._shared(rank, [work("attention", times.whole)], around, before=before))
        here, away = work("attention", times.scores), work("attention", times.remote)
        during, between = ([here], [away]) if self.overlap == "attention" else ([], [here, away])
        project, output = work("attention", times.project), work("attention", times.output)
        rest = yield from self._shared(rank, between, around, before=[*before, project], meanwhile=during)
        return [*rest, output]

    def _shared(
        self,
        rank: int,
        work: list[_Work],
        around: _Around | None,
        *,
        before: list[_Work],
        meanwhile: Sequence[_Work] = (),
    ) -> Generator[simpy.Event, object, list[_Work]]:
        """Work between a gather and a scatter, if there are any; returns the work that remains to be done after it."""
        if around is None:
            return [*before, *work]
        yield from self._exchange(rank, work[0].layer, "gather", around.gather, before=before, meanwhile=meanwhile)
        if around.scatter is None:
            return work
        yield from self._exchange(rank, work[0].layer, "scatter", around.scatter, before=work)
        return []

    def _experts_of(
        self, rank: int, layer: PassLayer, times: ComputeTimes, opened: tuple[_Opened, _Opened], *, before: list[_Work]
    ) -> Processes:
        """Gate, dispatch, routed experts and combine, with the shared experts before or during dispatch."""
        number = layer.number
        gate = _Work(number, "gate", float(times.gate[rank]))
        shared = _Work(number, "shared", float(times.shared[rank]))
        routed = _Work(number, "experts", float(times.experts[layer.moe, rank]))
        if self.overlap == "shared_expert":
            yield from self._exchange(rank, number, "dispatch", opened[0], before=[*before, gate], meanwhile=[shared])
        else:
            yield from self._exchange(rank, number, "dispatch", opened[0], before=[*before, gate, shared])
        yield from self._exchange(rank, number, "combine", opened[1], before=[routed])

    def _exchange(
        self,
        rank: int,
        layer: int,
        name: str,
        opened: _Opened,
        *,
        before: list[_Work],
        meanwhile: Sequence[_Work] = (),
    ) -> Processes:
        """Compute ``before``, then exchange, and compute ``meanwhile`` during the exchange."""
        yield from self._compute(rank, before, then=opened)
        travel = self.env.process(self._travel(rank, layer, name, opened))
        yield from self._compute(rank, meanwhile, then=None)
        yield travel

    def _travel(self, rank: int, layer: int, name: str, opened: _Opened) -> Processes:
        start = self.env.now
        yield from finish_exchange(opened.engine, opened.phases, rank)
        size = sum(float(phase.bytes_sent[rank]) for phase in opened.phases)
        self.spans.append(Span(rank=rank, layer=layer, name=name, start=start, end=self.env.now, size=size))

    def _compute(self, rank: int, work: Sequence[_Work], *, then: _Opened | None) -> Processes:
        """Work on the rank's device once it is free; the exchange after it is posted ahead, because its start is known."""
        work = [part for part in work if part.duration > 0]
        if not work:
            _enter(then, rank, at=self.env.now)
            return
        with self._devices[rank].request() as turn:
            yield turn
            if self._cores is not None:
                yield from self._share_cores(rank, work, self._cores)
                _enter(then, rank, at=self.env.now)
                return
            start = self.env.now
            for part in work:
                end = start + part.duration
                self.spans.append(Span(rank=rank, layer=part.layer, name=part.name, start=start, end=end))
                start = end
            _enter(then, rank, at=start)
            yield self.env.timeout(start - self.env.now)

    def _share_cores(self, rank: int, work: Sequence[_Work], cores: Cores) -> Processes:
        """Work on shared cores, whose end is known only when it has come."""
        for part in work:
            start = self.env.now
            yield from cores.work(part.duration)
            self.spans.append(Span(rank=rank, layer=part.layer, name=part.name, start=start, end=self.env.now))


def _open(engine: Engine, phases: Sequence[Flows]) -> _Opened:
    return _Opened(engine, engine.open_all(phases))


def _enter(opened: _Opened | None, rank: int, *, at: float) -> None:
    if opened is not None:
        enter_exchange(opened.engine, opened.phases, rank, at=at)
