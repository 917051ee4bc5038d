"""Where the tokens of a scenario go: a synthetic router of its policy, or a captured trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from smoes_sim.errors import ConfigError, TraceError
from smoes_sim.models import ModelShape
from smoes_sim.models.image_tokens import FixedImageTokens
from smoes_sim.prediction.ranks import workload_of
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
from smoes_sim.routing.trace import DECODE, PREFILL
from smoes_sim.scenario import RoutingSpec, Scenario
from smoes_sim.workload import Workload, WorkloadSpec, build_workload, workload_of_tokens

REFERENCE_WORKLOAD = WorkloadSpec(preset="mmmu", batch=8, decode_batch=1)
"""The workload on which a synthetic router is fitted to published figures: theirs."""
_KEPT_SLOTS = 8_000_000
"""Most slots of a routing that is kept for the next caller: four take 64 MB, with weights twice that."""


@lru_cache(maxsize=2)
def make_workload(spec: WorkloadSpec, model: ModelShape, seed: int) -> Workload:
    """The tokens of a workload; the same seed gives the same lengths. The last two are kept."""
    return build_workload(spec, model, rng=np.random.default_rng([seed, 3]))


def _with_images(model: ModelShape) -> ModelShape:
    """The model for the reference workload: one for text sees an image as 576 tokens, as the backbones of SMoES do."""
    if model.image_tokens is not None:
        return model
    return model.model_copy(update={"image_tokens": FixedImageTokens(kind="fixed", tokens=576)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedTokens:
    """The tokens of a scenario and where they go.

    Attributes:
        workload: The tokens.
        trace: Their routing; None for a dense model.
        deciding: The routing that decides where experts and tokens are placed: that of all tokens of a trace file, of the
            reference prompts where a rule needs images and text and the workload has no prompts, otherwise ``trace``.
    """

    workload: Workload
    trace: RoutingTrace | None
    deciding: RoutingTrace | None


def tokens_and_routing(
    scenario: Scenario, model: ModelShape, num_ranks: int, *, layers: Sequence[int] | None = None
) -> RoutedTokens:
    """The workload and its routing, captured or synthetic; no routing for a dense model.

    Synthetic routing has weights only where slots are skipped.

    Args:
        scenario: The scenario.
        model: Its model.
        num_ranks: Ranks, over which the sequences are counted.
        layers: MoE layers that the routing shall have, each of 0..L-1; None: all. Slots are skipped over these layers.

    Raises:
        TraceError: If a trace file does not fit the model or the workload.
    """
    spec, file = scenario.workload.for_ranks(num_ranks), scenario.routing.trace
    if file is None or not (model.experts or spec.is_from_trace):
        workload = make_workload(spec, model, scenario.seed)
        if not model.experts:
            return RoutedTokens(workload=workload, trace=None, deciding=None)
        trace = _synthetic(scenario, spec, model, layers=layers)
        return RoutedTokens(workload=workload, trace=trace, deciding=_deciding(scenario, trace, model, layers=layers))
    whole = load_trace(Path(file))  # every time: the file may have changed
    if not spec.is_from_trace:
        workload = make_workload(spec, model, scenario.seed)
    else:
        try:
            workload = workload_of_tokens(whole.modality, whole.sequence_id, whole.phase, decode_batch=spec.decode_batch)
        except ConfigError as error:
            raise error.at(file) from None
    if not model.experts:
        return RoutedTokens(workload=workload.only(spec.phase), trace=None, deciding=None)
    check_fits(whole, model, _tokens(workload), name=file)
    whole = skipped(whole if layers is None else whole.at_layers(layers), scenario.routing, name=file)
    if not spec.is_from_trace or spec.phase == "both":
        return RoutedTokens(workload=workload, trace=whole, deciding=whole)
    asked = np.flatnonzero(workload.phase == (PREFILL if spec.phase == "prefill" else DECODE))
    if not len(asked):
        raise ConfigError(f"{file}: holds no tokens of workload.phase = {spec.phase}. Write phase: both.")
    return RoutedTokens(workload=workload.only(spec.phase), trace=whole.select(asked), deciding=whole)


def _deciding(scenario: Scenario, trace: RoutingTrace, model: ModelShape, *, layers: Sequence[int] | None) -> RoutingTrace:
    """The routing that decides a placement; see :class:`RoutedTokens`."""
    needs_prompts = scenario.expert_rule == "bins" or scenario.placement.tokens == "modality"
    if scenario.workload.phase == "decode" and needs_prompts:
        return _synthetic(scenario, REFERENCE_WORKLOAD, _with_images(model), layers=layers)
    return trace


def _synthetic(
    scenario: Scenario,
    spec: WorkloadSpec,
    model: ModelShape,
    *,
    layers: Sequence[int] | None = None,
    with_weights: bool = False,
) -> RoutingTrace:
    """The synthetic routing of a workload; the last few that are not large are kept."""
    wanted = tuple(range(model.num_moe_layers) if layers is None else layers)
    num_tokens = len(make_workload(spec, model, scenario.seed).modality)
    make = _recent if num_tokens * len(wanted) * model.top_k <= _KEPT_SLOTS else _recent.__wrapped__
    return make(scenario.routing, spec, model, scenario.seed, wanted, with_weights)


@lru_cache(maxsize=4)
def _recent(  # noqa: PLR0917 (keys of the cache)
    routing: RoutingSpec,
    workload: WorkloadSpec,
    model: ModelShape,
    seed: int,
    layers: tuple[int, ...],
    with_weights: bool,
) -> RoutingTrace:
    tokens = _tokens(make_workload(workload, model, seed))
    return route(routing, tokens, model, seed, layers=layers, with_weights=with_weights)


def route(
    routing: RoutingSpec,
    tokens: Tokens,
    model: ModelShape,
    seed: int,
    *,
    layers: Sequence[int] | None = None,
    with_weights: bool = False,
) -> RoutingTrace:
    """Synthetic routing of some tokens in some MoE layers (None: all).

    Weights are made if asked for, and where slots are skipped, because they say which.

    Raises:
        ConfigError: If the policy cannot choose among the model's experts, or too much shall be skipped.
    """
    router, parameters = make_router(routing, model, seed)
    trace = router.route(tokens, parameters, layers=layers, with_weights=with_weights or routing.skip is not None)
    return skipped(trace, routing, name=model.name)


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
    trace = _synthetic(scenario, workload_of(scenario), model, with_weights=True)
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
    if routing.balance == "even":
        return router, RouterParameters(popularity=0.0, even=True)
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
        _tokens(make_workload(REFERENCE_WORKLOAD, _with_images(model), seed)),
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
