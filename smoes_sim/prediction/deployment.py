"""A scenario made concrete: routing, placement, traffic and the work of each rank, before any time is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, PlacementError, TopologyError, TraceError
from smoes_sim.models import ModelShape
from smoes_sim.network import Network
from smoes_sim.placement import ExpertPlacement, home_tokens, place_experts, read_placement
from smoes_sim.routing import (
    KEPT_GROUPS,
    NUM_GROUPS,
    RouterParameters,
    RoutingTrace,
    SyntheticRouter,
    Tokens,
    find_parameters,
    load_trace,
    published,
    skip_slots,
)
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import ExpertFile, RoutingSpec, Scenario
from smoes_sim.step.build import Step, StepParts, decode_steps, make_step, prefill_chunks
from smoes_sim.topology import Topology, build, find_topology
from smoes_sim.workload import Workload, WorkloadSpec, build_workload, workload_of_tokens

_REFERENCE = WorkloadSpec(preset="mmmu", batch=8, decode_batch=1)
"""The workload on which a synthetic router is fitted to published figures: theirs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deployment:
    """Everything that a prediction needs but the constants.

    Attributes:
        scenario: What was asked.
        topology: What is wired to what.
        parts: What the steps share.
        prefill: The whole prefill as one step, for its traffic.
        chunks: The steps that prefill takes, one after the other.
        decode: Some decode steps.
        mixed: A middle chunk of prefill and a decode step in one; None where prefill is not cut into chunks.
    """

    scenario: Scenario
    topology: Topology
    parts: StepParts
    prefill: Step
    chunks: Sequence[Step]
    decode: Sequence[Step]
    mixed: Step | None

    @property
    def model(self) -> ModelShape:
        """The model's shape."""
        return self.parts.model

    @property
    def network(self) -> Network:
        """The network before any calibration."""
        return self.parts.network

    @property
    def workload(self) -> Workload:
        """The tokens."""
        return self.parts.workload

    @property
    def trace(self) -> RoutingTrace | None:
        """Their routing; None for a dense model."""
        return self.parts.trace

    @property
    def placement(self) -> ExpertPlacement | None:
        """Where the experts are; None for a dense model."""
        return self.parts.placement

    @property
    def home(self) -> NDArray[np.int64]:
        """Home rank of each token, (T,)."""
        return self.parts.home


def deploy(scenario: Scenario) -> Deployment:
    """Make a scenario concrete.

    Raises:
        ConfigError: If its parts do not fit together.
    """
    model = scenario.model_shape
    topology = topology_of(scenario)
    network = Network(
        topology=topology,
        per_message=scenario.communication.per_message,
        per_exchange=scenario.communication.per_exchange,
        send_buffer=scenario.communication.send_buffer,
        seed=scenario.seed,
    )
    tensor = scenario.parallelism.tensor
    if topology.num_ranks % tensor:
        raise ConfigError(
            f"parallelism.tensor = {tensor} does not divide the {topology.num_ranks} ranks of {topology.name}. "
            "Use a divisor."
        )
    workload, trace = _tokens_and_routing(scenario, model)
    placement = None
    home = _sequence_homes(workload, num_ranks=topology.num_ranks, tensor=tensor)
    if trace is not None:
        try:
            placement = _place(scenario, model, trace, topology.num_ranks)
        except PlacementError as error:
            raise error.at(f"{model.name} on {topology.name}") from None
        if tensor == 1:
            home = home_tokens(scenario.placement.tokens, trace, placement)
    parts = StepParts(
        model=model,
        network=network,
        workload=workload,
        trace=trace,
        placement=placement,
        home=home,
        communication=scenario.communication,
        parallelism=scenario.parallelism,
        overlap=scenario.overlap,
    )
    return assemble(scenario, parts)


def topology_of(scenario: Scenario) -> Topology:
    """The ranks that take part, and what they are wired to.

    Raises:
        ConfigError: If the topology has fewer ranks than are asked for.
    """
    asked = scenario.topology
    topology = find_topology(asked) if isinstance(asked, str) else build(asked, name="scenario")
    if scenario.ranks is None:
        return topology
    try:
        return topology.first(scenario.ranks)
    except TopologyError as error:
        raise error.at(f"ranks = {scenario.ranks}") from None


def assemble(scenario: Scenario, parts: StepParts) -> Deployment:
    """The steps of a deployment from what they share; another network in ``parts`` gives the same traffic on it."""
    chunks, decode = prefill_chunks(parts), decode_steps(parts.workload)
    prefill = make_step(parts, np.flatnonzero(parts.workload.phase == PREFILL))
    is_cut = scenario.parallelism.prefill_chunk is not None
    mixed = None
    if is_cut and decode:
        mixed = make_step(parts, np.concatenate([chunks[len(chunks) // 2], decode[len(decode) // 2]]))
    return Deployment(
        scenario=scenario,
        topology=parts.network.topology,
        parts=parts,
        prefill=prefill,
        chunks=[make_step(parts, tokens) for tokens in chunks] if is_cut else [prefill],
        decode=[make_step(parts, tokens) for tokens in decode],
        mixed=mixed,
    )


def _sequence_homes(workload: Workload, *, num_ranks: int, tensor: int) -> NDArray[np.int64]:
    """Home rank of each token where every sequence stays in one attention group, (T,).

    Groups take sequences in turn; inside a group the tokens of a prompt are dealt out one by one, and decoded sequences too.
    """
    sequence = workload.sequence_id.astype(np.int64)
    groups = num_ranks // tensor
    dealt = np.where(workload.phase == PREFILL, np.arange(workload.num_tokens), sequence // groups)
    return sequence % groups * tensor + dealt % tensor


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
    return workload, skipped(trace, scenario.routing, name=file)


def _place(scenario: Scenario, model: ModelShape, trace: RoutingTrace, num_ranks: int) -> ExpertPlacement:
    rule = scenario.expert_rule
    if isinstance(rule, ExpertFile):
        if scenario.placement.spare:
            raise ConfigError(
                f"placement.spare = {scenario.placement.spare}: the file says what is in its slots. Leave it out."
            )
        return read_placement(
            Path(rule.file), moe_layers=model.moe_layer_indices, num_experts=model.experts, num_ranks=num_ranks
        )
    return place_experts(
        rule, trace, num_ranks=num_ranks, rng=np.random.default_rng([scenario.seed, 4]), spare=scenario.placement.spare
    )


@lru_cache(maxsize=8)
def _route(routing: RoutingSpec, workload: WorkloadSpec, model: ModelShape, seed: int) -> RoutingTrace:
    return route(routing, _tokens(make_workload(workload, model, seed)), model, seed)


def route(routing: RoutingSpec, tokens: Tokens, model: ModelShape, seed: int) -> RoutingTrace:
    """Synthetic routing of some tokens.

    Raises:
        ConfigError: If the policy cannot choose among the model's experts, or too much shall be skipped.
    """
    router, parameters = make_router(routing, model, seed)
    return skipped(router.route(tokens, parameters), routing, name=model.name)


def skipped(trace: RoutingTrace, routing: RoutingSpec, *, name: str) -> RoutingTrace:
    """The trace without the slots that the scenario leaves out; ``name`` is what errors say of it.

    Raises:
        TraceError: If the trace has no weights, or too much shall be skipped.
    """
    if routing.skip is None:
        return trace
    try:
        return skip_slots(trace, routing.skip)
    except TraceError as error:
        raise error.at(name) from None


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
        "policy": scenario.routing.name,
        "seed": scenario.seed,
        "parameters": asdict(parameters),
    }
    return replace(trace, metadata=metadata, moe_layers=np.array(model.moe_layer_indices, dtype=np.int32))


def make_router(routing: RoutingSpec, model: ModelShape, seed: int) -> tuple[SyntheticRouter, RouterParameters]:
    """The synthetic router of a policy on a model.

    It is fitted on the workload of the published figures whatever the scenario's own workload is: a router does not
    change with what it is asked. Policies that choose by groups have the scores of the standard router.

    Raises:
        ConfigError: If the policy cannot choose among the model's experts.
    """
    if routing.policy == "dense":
        raise ConfigError("routing.policy = dense routes nothing. Choose another policy.")
    try:
        router = SyntheticRouter(
            policy=routing.policy,
            num_experts=model.experts,
            top_k=model.top_k,
            num_layers=model.num_moe_layers,
            seed=seed,
            num_groups=routing.groups or NUM_GROUPS,
            kept_groups=routing.keep or KEPT_GROUPS,
        )
    except ConfigError as error:
        raise error.at(model.name) from None
    return router, _parameters(routing.fitted, model, seed)


@lru_cache(maxsize=8)
def _parameters(routing: RoutingSpec, model: ModelShape, seed: int) -> RouterParameters:
    """The parameters under which a policy shows what the scenario asks for."""
    assert routing.policy != "dense", "a dense model has no router"
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
    return find_parameters(
        router,
        _tokens(make_workload(_REFERENCE, model, seed)),
        rates=rates,
        msi=known.msi if use_index else routing.msi,
        popularity=routing.popularity,
    )


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
