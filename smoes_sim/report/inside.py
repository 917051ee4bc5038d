"""What a page shows of the inside of one deployment, simulated again from its scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.config import Scenario
from smoes_sim.deployment import Deployment, deploy
from smoes_sim.network import Flows, Network, link_load
from smoes_sim.network.hot import hot_links
from smoes_sim.placement import ExpertPlacement
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import PREFILL
from smoes_sim.simulate import constant_sets, network_with, outside_layers, rates_with, time_step
from smoes_sim.steps import Step

Row = dict[str, Any]
_TEXT = 0
_MOST_LAYERS = 24
_HOT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """One deployment, seen from inside.

    Attributes:
        deployment: The deployment.
        busy: Seconds that each link needs for the bytes of the prefill at full rate, (H,).
        hot: The busiest links, as rows of ``hot_links``.
        parts: Seconds by pass and part of the rank that ends last: ``pass``, ``part``, ``seconds``.
        modality: Share of tokens that are not text by MoE layer and slot, slots in the order of their ranks: ``layer``,
            ``slot``, ``rank``, ``share`` (None where an expert got no token).
        step_s: Prefill under those constants, seconds.
        ttft_s: The same with what is outside the layers.
    """

    deployment: Deployment
    busy: NDArray[np.float64]
    hot: Sequence[Row]
    parts: Sequence[Row]
    modality: Sequence[Row]
    step_s: float
    ttft_s: float


def look_inside(scenario: Scenario, *, ttft_s: float) -> Inside:
    """Simulate prefill and a decode step once more and keep what happens.

    Under the set of constants whose TTFT is nearest ``ttft_s``.

    Raises:
        ConfigError: If the scenario cannot be deployed here, such as for a trace that is gone.
    """
    deployment = deploy(scenario)
    times = [(abs(_ttft(deployment, constants) - ttft_s), constants) for constants in constant_sets(deployment)]
    constants = min(times, key=lambda item: item[0])[1]
    network = network_with(deployment, constants)
    phases = [flows for step in deployment.chunks for flows in _flows(deployment, step)]
    load = np.zeros(network.topology.num_links)
    for flows in phases:
        load += link_load(flows, len(load))
    passes = [("prefill", deployment.chunks), ("decode", deployment.decode[len(deployment.decode) // 2 :][:1])]
    parts = [row for name, steps in passes if steps for row in _parts(deployment, name, steps, network, constants)]
    step_s = sum(row["seconds"] for row in parts if row["pass"] == "prefill")
    trace, placement = deployment.trace, deployment.placement
    return Inside(
        deployment=deployment,
        busy=load / network.capacity,
        hot=[found.row() for found in hot_links(network, phases, duration=step_s, most=_HOT)],
        parts=parts,
        modality=[] if trace is None or placement is None else modality_of_slots(trace, placement),
        step_s=step_s,
        ttft_s=_ttft(deployment, constants),
    )


def _ttft(deployment: Deployment, constants: dict[str, float]) -> float:
    network, rates = network_with(deployment, constants), rates_with(deployment, constants)
    steps = sum(time_step(deployment, step, network, rates).duration for step in deployment.chunks)
    return steps + outside_layers(deployment, constants, rates)


def _flows(deployment: Deployment, step: Step) -> list[Flows]:
    """All that a pass sends."""
    flows: list[Flows] = []
    for batch in step.batches:
        flows += [part for layer in batch.exchanges for part in (*layer.dispatch, *layer.combine)]
        if batch.group is not None:
            flows += [*batch.group.gather, *batch.group.scatter] * deployment.model.gathers(
                deployment.scenario.parallelism.tensor
            )
    return flows


def _parts(
    deployment: Deployment, name: str, steps: Sequence[Step], network: Network, constants: dict[str, float]
) -> list[Row]:
    """Seconds of each part on the rank that ends last, and what is left, which is waiting.

    Where parts overlap they are cut to the pass in proportion.
    """
    seconds: dict[str, float] = {}
    for step in steps:
        time = time_step(deployment, step, network, rates_with(deployment, constants))
        last = int(time.finish.argmax())
        mine: dict[str, float] = {}
        for span in time.spans:
            if span.rank == last:
                mine[span.name] = mine.get(span.name, 0.0) + span.end - span.start
        total = sum(mine.values())
        shrink = min(1.0, time.duration / total) if total else 1.0
        for part, value in mine.items():
            seconds[part] = seconds.get(part, 0.0) + shrink * value
        seconds["waiting"] = seconds.get("waiting", 0.0) + time.duration - shrink * total
    return [{"pass": name, "part": part, "seconds": value} for part, value in seconds.items() if value > 0]


def modality_of_slots(trace: RoutingTrace, placement: ExpertPlacement) -> list[Row]:
    """Share of routed prefill tokens that are not text, per MoE layer and slot; at most 24 layers, evenly spread.

    Example:
        An expert that takes 3 image tokens and 1 text token: 0.75.
    """
    prefill = trace.phase == PREFILL
    is_other = np.broadcast_to((trace.modality[prefill] != _TEXT)[:, None], (int(prefill.sum()), trace.top_k))
    order = np.argsort(placement.slot_rank, kind="stable")
    rows: list[Row] = []
    for layer in np.unique(np.linspace(0, trace.num_layers - 1, min(_MOST_LAYERS, trace.num_layers)).astype(int)).tolist():
        experts = trace.expert_ids[prefill, layer].astype(np.int64)
        chosen = experts >= 0
        tokens = np.bincount(experts[chosen], minlength=trace.num_experts)
        others = np.bincount(experts[chosen], weights=is_other[chosen], minlength=trace.num_experts)
        for place, slot in enumerate(order.tolist()):
            expert = int(placement.physical_to_logical_map[layer, slot])
            share = float(others[expert] / tokens[expert]) if tokens[expert] else None
            rows.append({"layer": layer, "slot": place, "rank": int(placement.slot_rank[slot]), "share": share})
    return rows
