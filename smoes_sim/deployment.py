"""A scenario made concrete: routing, placement, traffic and the work of each rank, before any time is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import RankLoad
from smoes_sim.config import CommunicationSpec, ExpertFile, RoutingSpec, Scenario
from smoes_sim.errors import ConfigError, PlacementError, TraceError
from smoes_sim.models import ModelShape
from smoes_sim.network import Flows, Network, phases_of
from smoes_sim.placement import ExpertPlacement, home_tokens, place_experts, read_placement
from smoes_sim.routing import (
    RouterParameters,
    RoutingTrace,
    SyntheticRouter,
    Tokens,
    find_parameters,
    load_trace,
    published,
)
from smoes_sim.routing.trace import PREFILL
from smoes_sim.timeline import LayerExchanges, Overlap
from smoes_sim.topology import Topology, build, find_topology
from smoes_sim.traffic import Traffic, copy_bytes, count_traffic
from smoes_sim.workload import Workload, WorkloadSpec, build_workload, workload_of_tokens

_DECODE_STEPS = 8
"""Decode steps that are simulated, evenly spread over all; TPOT is their mean."""
_REFERENCE = WorkloadSpec(preset="mmmu", batch=8, decode_batch=1)
"""The workload on which a synthetic router is fitted to published figures: theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tokens that go through the layers together: messages per MoE layer, and the work of each rank."""

    exchanges: Sequence[LayerExchanges]
    load: RankLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward pass: the traffic of its MoE layers and the work of each rank.

    Attributes:
        traffic: Copies per layer; None for a dense model.
        batches: What is sent and computed: everything together, or two halves that overlap.
        dispatch_bytes: Bytes of one dispatched copy.
        combine_bytes: Bytes of one combined copy.
    """

    traffic: Traffic | None
    batches: Sequence[Batch]
    dispatch_bytes: int
    combine_bytes: int

    @property
    def bytes_remote(self) -> float:
        """Bytes that cross from rank to rank in dispatch and combine, over all layers."""
        copies = self.traffic.remote_copies if self.traffic else 0
        return float(copies * (self.dispatch_bytes + self.combine_bytes))

    @property
    def bytes_total(self) -> float:
        """Remote bytes and those of copies that stay on their rank."""
        copies = self.traffic.local_copies if self.traffic else 0
        return self.bytes_remote + copies * (self.dispatch_bytes + self.combine_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Everything that a prediction needs but the constants."""

    scenario: Scenario
    model: ModelShape
    topology: Topology
    network: Network
    workload: Workload
    trace: RoutingTrace | None
    placement: ExpertPlacement | None
    home: NDArray[np.int64]
    prefill: Step
    decode: Sequence[Step]


def deploy(scenario: Scenario) -> Deployment:
    """Make a scenario concrete.

    Raises:
        ConfigError: If its parts do not fit together.
    """
    model = scenario.model_shape
    asked = scenario.topology
    topology = find_topology(asked) if isinstance(asked, str) else build(asked, name="scenario")
    network = Network(
        topology=topology,
        per_message=scenario.communication.per_message,
        per_exchange=scenario.communication.per_exchange,
        seed=scenario.seed,
    )
    workload, trace = _tokens_and_routing(scenario, model)
    placement = None
    home = workload.sequence_id.astype(np.int64) % topology.num_ranks
    if trace is not None:
        try:
            placement = _place(scenario, model, trace, topology.num_ranks)
        except PlacementError as error:
            raise error.at(f"{model.name} on {topology.name}") from None
        home = home_tokens(scenario.placement.tokens, trace, placement)
    parts = _Parts(
        model=model,
        network=network,
        workload=workload,
        trace=trace,
        placement=placement,
        home=home,
        communication=scenario.communication,
        overlap=scenario.overlap,
    )
    steps = [_step(parts, tokens) for tokens in step_tokens(workload)]
    return Deployment(
        scenario=scenario,
        model=model,
        topology=topology,
        network=network,
        workload=workload,
        trace=trace,
        placement=placement,
        home=home,
        prefill=steps[0],
        decode=steps[1:],
    )


def make_workload(spec: WorkloadSpec, model: ModelShape, seed: int) -> Workload:
    """The tokens of a workload; the same seed gives the same lengths."""
    return build_workload(spec, model, rng=np.random.default_rng([seed, 3]))


def _tokens_and_routing(scenario: Scenario, model: ModelShape) -> tuple[Workload, RoutingTrace | None]:
    """The workload and its routing, captured or synthetic; no routing for a dense model.

    Raises:
        TraceError: If a trace file does not fit the model or the workload.
    """
    spec, file = scenario.workload, scenario.routing.trace
    if file is None or not (model.experts or spec.is_from_trace):
        workload = make_workload(spec, model, scenario.seed)
        return workload, _route(scenario.routing, spec, model, scenario.seed) if model.experts else None
    trace = load_trace(Path(file))  # every time: the file may have changed
    if not spec.is_from_trace:
        workload = make_workload(spec, model, scenario.seed)
    else:
        try:
            workload = workload_of_tokens(trace.modality, trace.sequence_id, trace.phase, decode_batch=spec.decode_batch)
        except ConfigError as error:
            raise error.at(file) from None
    if not model.experts:
        return workload, None
    check_fits(trace, model, _tokens(workload), name=file)
    return workload, trace


def _place(scenario: Scenario, model: ModelShape, trace: RoutingTrace, num_ranks: int) -> ExpertPlacement:
    rule = scenario.expert_rule
    if isinstance(rule, ExpertFile):
        return read_placement(
            Path(rule.file), moe_layers=model.moe_layer_indices, num_experts=model.experts, num_ranks=num_ranks
        )
    return place_experts(rule, trace, num_ranks=num_ranks, rng=np.random.default_rng([scenario.seed, 4]))


@lru_cache(maxsize=8)
def _route(routing: RoutingSpec, workload: WorkloadSpec, model: ModelShape, seed: int) -> RoutingTrace:
    router, parameters = make_router(routing, model, seed)
    return router.route(_tokens(make_workload(workload, model, seed)), parameters)


def synthesize_trace(scenario: Scenario) -> RoutingTrace:
    """The synthetic routing of a scenario, with its origin in the metadata.

    Raises:
        ConfigError: If the scenario takes its routing from a file, or its model has no experts.
    """
    model = scenario.model_shape
    if scenario.routing.trace is not None:
        raise ConfigError(f'routing.trace = "{scenario.routing.trace}": there is nothing to synthesize. Leave it out.')
    if not model.experts:
        raise ConfigError(f'model = "{model.name}": a dense model routes nothing. Choose a model with experts.')
    trace = _route(scenario.routing, scenario.workload, model, scenario.seed)
    _, parameters = make_router(scenario.routing, model, scenario.seed)
    metadata = {
        "source": "synthetic",
        "model": model.name,
        "policy": scenario.routing.policy,
        "seed": scenario.seed,
        "parameters": asdict(parameters),
    }
    return replace(trace, metadata=metadata, moe_layers=np.array(model.moe_layer_indices, dtype=np.int32))


@lru_cache(maxsize=8)
def make_router(routing: RoutingSpec, model: ModelShape, seed: int) -> tuple[SyntheticRouter, RouterParameters]:
    """The synthetic router of a policy on a model.

    It is fitted on the workload of the published figures whatever the scenario's own workload is: a router does not
    change with what it is asked.
    """
    if model.experts % 2:
        raise ConfigError(f"{model.name}: {model.experts} experts cannot be split into two sides. Use a trace instead.")
    router = SyntheticRouter(
        policy=routing.policy,
        num_experts=model.experts,
        top_k=model.top_k,
        num_layers=model.num_moe_layers,
        seed=seed,
    )
    known = published()[routing.policy]
    rates = known.rates if routing.rates == "published" else routing.rates
    use_index = routing.msi is None and (routing.rates is None or routing.rates == "published")
    reference = _tokens(make_workload(_REFERENCE, model, seed))
    parameters = find_parameters(
        router,
        reference,
        rates=rates,
        msi=known.msi if use_index else routing.msi,
        popularity=routing.popularity,
    )
    return router, parameters


def check_fits(trace: RoutingTrace, model: ModelShape, tokens: Tokens, *, name: str) -> None:
    """Refuse a trace of another model or another workload.

    Raises:
        TraceError: With both values.
    """
    wanted = {
        "num_experts": (trace.num_experts, model.experts),
        "layers": (trace.num_layers, model.num_moe_layers),
        "top_k": (trace.top_k, model.top_k),
        "tokens": (trace.num_tokens, len(tokens.modality)),
    }
    for what, (found, asked) in wanted.items():
        if found != asked:
            raise TraceError(f"{name}: {what} = {found}, but the scenario's model and workload have {asked}. Change one.")
    for what in ("modality", "sequence_id", "phase"):
        if not np.array_equal(getattr(trace, what), getattr(tokens, what)):
            raise TraceError(f"{name}: {what} differs from the scenario's workload. Use the workload it was made for.")


def _tokens(workload: Workload) -> Tokens:
    return Tokens(modality=workload.modality, sequence_id=workload.sequence_id, phase=workload.phase)


def step_tokens(workload: Workload) -> list[NDArray[np.int64]]:
    """Token indices of the prefill and of some decode steps, evenly spread over all."""
    prefill = np.flatnonzero(workload.phase == PREFILL)
    start = np.cumsum(workload.sequence_output_tokens - 1) - (workload.sequence_output_tokens - 1) + len(prefill)
    steps: list[NDArray[np.int64]] = []
    for first in range(0, workload.num_sequences, workload.decode_batch):
        group = np.arange(first, min(first + workload.decode_batch, workload.num_sequences))
        for step in range(int(workload.sequence_output_tokens[group].max()) - 1):
            going = group[workload.sequence_output_tokens[group] - 1 > step]
            steps.append(start[going] + step)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(_DECODE_STEPS, len(steps))).astype(int))
    return [prefill, *(steps[index] for index in chosen)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What the steps of one deployment share."""

    model: ModelShape
    network: Network
    workload: Workload
    trace: RoutingTrace | None
    placement: ExpertPlacement | None
    home: NDArray[np.int64]
    communication: CommunicationSpec
    overlap: Overlap


def _step(parts: _Parts, tokens: NDArray[np.int64]) -> Step:
    """The step that processes some tokens together."""
    sequence = parts.workload.sequence_id[tokens]
    is_last = np.append(sequence[1:] != sequence[:-1], True)
    traffic = None if parts.trace is None else _traffic(parts, tokens)
    groups = _halves(parts.home[tokens]) if parts.overlap == "two_batch" else [np.arange(len(tokens))]
    return Step(
        traffic=traffic,
        batches=[_batch(parts, tokens[group], is_last[group]) for group in groups],
        dispatch_bytes=copy_bytes(parts.model.hidden, parts.communication.dispatch),
        combine_bytes=copy_bytes(parts.model.hidden, parts.communication.combine),
    )


def _halves(home: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Of every rank the first half of its tokens (rounded up), and the rest if there is any."""
    order = np.argsort(home, kind="stable")
    count = np.bincount(home)
    place = np.empty(len(home), dtype=np.int64)
    place[order] = np.arange(len(home)) - np.repeat(np.cumsum(count) - count, count)
    is_first = 2 * place < count[home]
    return [half for half in (np.flatnonzero(is_first), np.flatnonzero(~is_first)) if len(half)]


def _traffic(parts: _Parts, tokens: NDArray[np.int64]) -> Traffic:
    assert parts.trace is not None
    assert parts.placement is not None
    return count_traffic(
        parts.trace.select(tokens),
        parts.placement,
        parts.home[tokens],
        deduplicate=parts.communication.deduplicate,
        topology=parts.network.topology,
    )


def _batch(parts: _Parts, tokens: NDArray[np.int64], is_last: NDArray[np.bool_]) -> Batch:
    """What is sent and computed for some tokens; ``is_last`` where one ends its sequence's part of the step."""
    model, workload, num_ranks = parts.model, parts.workload, parts.network.topology.num_ranks
    here = parts.home[tokens]
    exchanges: list[LayerExchanges] = []
    slots = active = np.zeros((model.num_moe_layers, num_ranks), dtype=np.int64)
    if parts.trace is not None and parts.placement is not None:
        traffic = _traffic(parts, tokens)
        exchanges = _exchanges(traffic, parts)
        slots, active = traffic.slots, _active_experts(traffic, parts.placement)
    count = np.bincount(here, minlength=num_ranks)
    attended = np.bincount(here, weights=workload.context_lengths[tokens], minlength=num_ranks).astype(np.int64)
    is_prefill = len(tokens) > 0 and workload.phase[tokens[0]] == PREFILL
    load = RankLoad(
        tokens=count,
        context=attended,
        cached=count if is_prefill else attended,
        outputs=np.bincount(here[is_last], minlength=num_ranks),
        slots=slots,
        active_experts=active,
    )
    return Batch(exchanges=exchanges, load=load)


def _active_experts(traffic: Traffic, placement: ExpertPlacement) -> NDArray[np.int64]:
    """Experts with at least one token, per layer and rank, (L, R)."""
    L, R = traffic.slots.shape
    first = placement.ep_size * np.arange(placement.num_groups)[:, None]
    key = np.arange(L)[:, None, None] * R + first + placement.expert_rank[:, None, :]
    return np.bincount(key[traffic.expert_slots > 0], minlength=L * R).reshape(L, R)


def _exchanges(traffic: Traffic, parts: _Parts) -> list[LayerExchanges]:
    """Messages of each layer; combine goes back the way dispatch came, last stage first."""
    network, communication, hidden = parts.network, parts.communication, parts.model.hidden

    def phases(stages: list[NDArray[np.int64]], size: int) -> list[Flows]:
        return phases_of(
            network,
            [stage.astype(np.float64) * size for stage in stages],
            schedule=communication.library,
            order=communication.order,
            seed=network.seed,
            message_size=size,
        )

    return [
        LayerExchanges(
            dispatch=phases([stage[layer] for stage in traffic.stages], copy_bytes(hidden, communication.dispatch)),
            combine=phases(
                [stage[layer].T for stage in reversed(traffic.stages)], copy_bytes(hidden, communication.combine)
            ),
        )
        for layer in range(len(traffic.slots))
    ]
