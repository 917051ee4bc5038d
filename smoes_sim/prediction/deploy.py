"""Make a scenario concrete: routing, placement, traffic and the work of each rank, before any time is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, PlacementError
from smoes_sim.models import ModelShape
from smoes_sim.network import Network
from smoes_sim.placement import ExpertPlacement, check_slots, home_tokens, place_experts, read_placement
from smoes_sim.prediction.attention import cache_move, spread_attention
from smoes_sim.prediction.constants import middle_constants, network_under
from smoes_sim.prediction.deployment import Deployment, rates_under
from smoes_sim.prediction.ranks import topology_of
from smoes_sim.prediction.router import make_workload, tokens_and_routing
from smoes_sim.prediction.sampling import MOST_CHUNKS, evenly_spaced, routed_layers, simulated_layers, simulated_steps
from smoes_sim.routing import (
    RoutingTrace,
)
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import ExpertFile, Scenario
from smoes_sim.step.build import (
    DECODE_STEPS,
    decode_steps,
    make_step,
    num_decode_steps,
    prefill_chunks,
)
from smoes_sim.step.parts import RoutedExperts, StepParts
from smoes_sim.topology import Topology


def deploy(scenario: Scenario, *, whole: bool = False) -> Deployment:
    """Make a scenario concrete.

    Args:
        scenario: What is asked.
        whole: Whether all MoE layers are routed and simulated, however many tokens there are and whatever ``sampling`` says.

    Raises:
        ConfigError: If its parts do not fit together.
    """
    model = scenario.model_shape
    topology = topology_of(scenario)
    network = Network.on(
        topology,
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
    _check_placement(scenario, model, topology)
    if whole:
        scenario = scenario.model_copy(update={"sampling": "none"})
    layers = _routed(scenario, model, topology.num_ranks)
    routed = tokens_and_routing(scenario, model, topology.num_ranks, layers=layers)
    workload, trace, deciding = routed.workload, routed.trace, routed.deciding
    moe_layers = np.array(model.moe_layer_indices, dtype=np.int64)
    if layers is not None:
        moe_layers = moe_layers[layers]
    experts = None
    is_prompt = workload.phase == PREFILL
    home = sequence_homes(workload.sequence_id, is_prompt, num_ranks=topology.num_ranks, tensor=tensor)
    if trace is not None and deciding is not None:
        try:
            placement = _place(scenario, model, deciding, topology.num_ranks, layers=layers)
        except PlacementError as error:
            raise error.at(f"{model.name} on {topology.name}") from None
        experts = RoutedExperts(trace=trace, placement=placement)
        if tensor == 1:
            home = home_tokens(scenario.placement.tokens, trace, placement, decide_by=deciding)
            if scenario.placement.decode_tokens is not None:
                decoded = home_tokens(scenario.placement.decode_tokens, trace, placement, decide_by=deciding)
                home = np.where(is_prompt, home, decoded)
    parts = StepParts(
        model=model,
        network=network,
        workload=workload,
        experts=experts,
        home=home,
        communication=scenario.communication,
        parallelism=scenario.parallelism,
        overlap=scenario.overlap,
    )
    constants = middle_constants(scenario)
    under, rates = network_under(network, constants), rates_under(scenario, constants)
    parts = replace(parts, spread=spread_attention(scenario, parts, network=under, rates=rates))
    return assemble(scenario, parts, moe_layers=moe_layers)


def assemble(scenario: Scenario, parts: StepParts, *, moe_layers: NDArray[np.int64]) -> Deployment:
    """The steps of a deployment from what they share; another network in ``parts`` gives the same traffic on it.

    Args:
        scenario: What was asked.
        parts: What the steps share.
        moe_layers: Indices in the model of the MoE layers that are routed.
    """
    chunks, decode = prefill_chunks(parts), decode_steps(parts.workload, most=_most_steps(scenario, parts))
    prompts = np.flatnonzero(parts.workload.phase == PREFILL)
    prefill = make_step(parts, prompts) if len(prompts) else None
    is_cut = scenario.parallelism.prefill_chunk is not None and prefill is not None
    mixed = None
    if is_cut and decode:
        mixed = make_step(parts, np.concatenate([chunks[len(chunks) // 2], decode[len(decode) // 2]]))
    chosen = chunks
    if scenario.sampling == "auto":
        chosen = [chunks[index] for index in evenly_spaced(len(chunks), MOST_CHUNKS)]
    return Deployment(
        scenario=scenario,
        topology=parts.network.topology,
        parts=parts,
        prefill=prefill,
        chunks=[make_step(parts, tokens) for tokens in chosen] if is_cut or prefill is None else [prefill],
        decode=[make_step(parts, tokens) for tokens in decode],
        num_chunks=len(prompts) / float(np.mean([len(tokens) for tokens in chosen])) if chosen else 0.0,
        num_decode_steps=num_decode_steps(parts.workload),
        mixed=mixed,
        cache_move=cache_move(parts),
        moe_layers=moe_layers,
        simulated=_simulated(scenario, len(moe_layers), num_ranks=parts.network.topology.num_ranks),
    )


def _routed(scenario: Scenario, model: ModelShape, num_ranks: int) -> list[int] | None:
    """Indices among the MoE layers of those that are routed; None for all."""
    if scenario.sampling == "none" or not model.experts or scenario.routing.trace is not None:
        return None
    num_tokens = make_workload(scenario.workload.for_ranks(num_ranks), model, scenario.seed).num_tokens
    found = routed_layers(model.num_moe_layers, num_tokens=num_tokens, top_k=model.top_k)
    return None if len(found) == model.num_moe_layers else found.tolist()


def _most_steps(scenario: Scenario, parts: StepParts) -> int:
    """Number of decode steps that are simulated at most."""
    if scenario.sampling == "none":
        return DECODE_STEPS
    return simulated_steps(num_ranks=parts.network.topology.num_ranks, schedule=scenario.communication.library)


def _simulated(scenario: Scenario, num_layers: int, *, num_ranks: int) -> NDArray[np.int64]:
    """Rows of the routed MoE layers that are simulated."""
    if scenario.sampling == "none":
        return np.arange(num_layers)
    return simulated_layers(num_layers, num_ranks=num_ranks, schedule=scenario.communication.library)


def sequence_homes(
    sequence: NDArray[np.integer], is_prompt: NDArray[np.bool_], *, num_ranks: int, tensor: int
) -> NDArray[np.int64]:
    """Home rank of each token where every sequence stays in one attention group, (T,).

    Groups take sequences in turn; inside a group the tokens of a prompt are dealt out one by one, and decoded sequences too.

    Args:
        sequence: Sequence of each token, shape (T,).
        is_prompt: Whether it belongs to a prompt, shape (T,); otherwise it is decoded.
        num_ranks: Number of ranks.
        tensor: Ranks of an attention group.
    """
    number = sequence.astype(np.int64)
    groups = num_ranks // tensor
    dealt = np.where(is_prompt, np.arange(len(number)), number // groups)
    return number % groups * tensor + dealt % tensor


def _check_placement(scenario: Scenario, model: ModelShape, topology: Topology) -> None:
    """Refuse experts that do not fit on the ranks, before the work of routing."""
    rule, layout = scenario.expert_rule, scenario.parallelism
    layout.check_model(model)
    if not model.experts or isinstance(rule, ExpertFile):
        return
    try:
        groups = check_slots(
            rule,
            model.experts,
            num_ranks=topology.num_ranks,
            spare=scenario.placement.spare,
            ep_size=layout.expert,
            expert_tensor=layout.expert_tensor,
        )
    except PlacementError as error:
        raise error.at(f"{model.name} on {topology.name}") from None
    if groups.ep_size % layout.tensor:
        raise ConfigError(
            f"parallelism.tensor = {layout.tensor} does not divide the {groups.ep_size} ranks of an EP group of "
            f"{model.name}. Use a divisor."
        )


def _place(
    scenario: Scenario, model: ModelShape, trace: RoutingTrace, num_ranks: int, *, layers: Sequence[int] | None
) -> ExpertPlacement:
    rule, layout = scenario.expert_rule, scenario.parallelism
    if isinstance(rule, ExpertFile):
        if scenario.placement.spare:
            raise ConfigError(
                f"placement.spare = {scenario.placement.spare}: the file says what is in its slots. Leave it out."
            )
        placement = read_placement(
            Path(rule.file),
            moe_layers=model.moe_layer_indices,
            num_experts=model.experts,
            num_ranks=num_ranks,
            ep_size=layout.expert,
            expert_tensor=layout.expert_tensor,
        )
        if layers is None:
            return placement
        return replace(placement, physical_to_logical_map=placement.physical_to_logical_map[list(layers)])
    return place_experts(
        rule,
        trace,
        num_ranks=num_ranks,
        rng=np.random.default_rng([scenario.seed, 4]),
        spare=scenario.placement.spare,
        ep_size=layout.expert,
        expert_tensor=layout.expert_tensor,
    )
