"""What a page shows of the inside of one deployment, simulated again from its scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, link_load
from smoes_sim.network.hot import hot_links
from smoes_sim.placement import ExpertPlacement
from smoes_sim.prediction.conditions import Conditions
from smoes_sim.prediction.deployment import Deployment, deploy
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.prediction.times import ExchangeTimes, times_under
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import Step
from smoes_sim.step.timeline import StepTime

Row = dict[str, Any]
_TEXT = 0
_MOST_LAYERS = 24
_HOT = 6
_EXCHANGES = ("dispatch", "combine", "gather", "scatter")
_FIGURES = ("ttft_s", "tpot_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """One deployment, seen from inside.

    Attributes:
        deployment: The deployment.
        busy: Seconds that each link needs for the bytes of the prefill at full rate, (H,).
        hot: The busiest links, as rows of ``hot_links``.
        parts: Seconds by pass and part of the rank that is shown: ``pass``, ``part``, ``seconds``;
            those of prefill add up to ``ttft_s``.
        modality: Share of tokens that are not text by MoE layer and slot, slots in the order of their ranks: ``layer``,
            ``slot``, ``rank``, ``share`` (None where an expert got no token).
        step_s: Prefill under those constants, seconds.
        ttft_s: The same with what is outside the layers.
        num_sets: Sets of constants, of which one is shown.
        ep_overhead: Share of the prefill that communication adds, under the one shown.
    """

    deployment: Deployment
    busy: NDArray[np.float64]
    hot: Sequence[Row]
    parts: Sequence[Row]
    modality: Sequence[Row]
    step_s: float
    ttft_s: float
    num_sets: int
    ep_overhead: float


def look_inside(scenario: Scenario, row: Mapping[str, Any]) -> Inside:
    """Simulate a deployment once more and keep what happens in prefill and in the middle step of decode.

    Under the set of constants whose figures are all nearest those of the row.

    Args:
        scenario: The deployment.
        row: What was predicted: ``ttft_s``, and as much of ``tpot_s`` and ``ep_overhead`` as is known.

    Raises:
        ConfigError: If the scenario cannot be deployed here, such as for a trace that is gone.
    """
    deployment = deploy(scenario)
    sets = constant_sets(deployment)
    alone = ExchangeTimes(deployment.scenario.communication.tolerance)
    known = [times_under(deployment.under(constants), alone) for constants in sets]
    chosen = min(range(len(sets)), key=lambda index: _distance(known[index].flat(), row))
    conditions, times = deployment.under(sets[chosen]), known[chosen]
    network = conditions.network
    phases = [flows for step in deployment.chunks for flows in _flows(deployment, step)]
    load = np.zeros(network.topology.num_links)
    for flows in phases:
        load += link_load(flows, len(load))
    passes = [("prefill", deployment.chunks), ("decode", deployment.decode[len(deployment.decode) // 2 :][:1])]
    parts = [row for name, steps in passes if steps for row in _parts(conditions, name, steps)]
    if times.outside_s:
        parts.insert(0, {"pass": "prefill", "part": "outside layers", "seconds": times.outside_s})
    trace, placement = deployment.trace, deployment.placement
    return Inside(
        deployment=deployment,
        busy=load / network.capacity,
        hot=[found.to_dict() for found in hot_links(network, phases, duration=times.prefill.step_s, most=_HOT)],
        parts=parts,
        modality=[] if trace is None or placement is None else modality_of_slots(trace, placement),
        step_s=times.prefill.step_s,
        ttft_s=times.ttft_s,
        num_sets=len(sets),
        ep_overhead=times.prefill.ep_overhead,
    )


def _distance(times: Mapping[str, float], row: Mapping[str, Any]) -> float:
    """How far figures are from those of a row: the largest difference, relative or of shares."""
    away = [abs(times[key] / row[key] - 1) for key in _FIGURES if row.get(key) and key in times]
    if row.get("ep_overhead") is not None:
        away.append(abs(times["ep_overhead"] - row["ep_overhead"]))
    return max(away)


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


def _parts(conditions: Conditions, name: str, steps: Sequence[Step]) -> list[Row]:
    """Seconds of each part on the busiest of the ranks that end last, and what is left, which is waiting.

    On another rank dispatch and combine would hold the time in which it waits for the busiest.
    Where parts overlap they are cut to the pass in proportion.
    """
    seconds: dict[str, float] = {}
    for step in steps:
        time = conditions.time(step)
        busiest = _busiest(time)
        mine: dict[str, float] = {}
        for span in time.spans:
            if span.rank == busiest:
                mine[span.name] = mine.get(span.name, 0.0) + span.end - span.start
        total = sum(mine.values())
        shrink = min(1.0, time.duration / total) if total else 1.0
        for part, value in mine.items():
            seconds[part] = seconds.get(part, 0.0) + shrink * value
        seconds["waiting"] = seconds.get("waiting", 0.0) + time.duration - shrink * total
    return [{"pass": name, "part": part, "seconds": value} for part, value in seconds.items() if value > 0]


def _busiest(time: StepTime) -> int:
    """Of the ranks that end within 1% of the last the one with most work of its own."""
    work = np.zeros(len(time.finish))
    for span in time.spans:
        if span.name not in _EXCHANGES:
            work[span.rank] += span.end - span.start
    return int(np.where(time.finish >= 0.99 * time.finish.max(), work, -1.0).argmax())


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
