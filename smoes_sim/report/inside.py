"""The inside of one deployment, simulated again from its scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, link_load
from smoes_sim.network.hot import HotLinks, hot_links
from smoes_sim.placement import ExpertPlacement
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.prediction.times import all_times
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import Step
from smoes_sim.step.timeline import StepTime

_TEXT = 0
_MOST_LAYERS = 24
_HOT = 6
_EXCHANGES = ("dispatch", "combine", "gather", "scatter")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPart:
    """Seconds of one part of a pass, such as ``experts`` of ``prefill``."""

    of: str
    part: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShare:
    """Share of the tokens of a slot that are not text; None where its expert got no token.

    ``slot`` counts the slots of a layer in the order of their ranks.
    """

    layer: int
    slot: int
    rank: int
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Where the time of one deployment goes, and over which links.

    Attributes:
        deployment: The deployment.
        of: The pass whose links are shown: ``prefill``, or the middle step of ``decode`` where only decode was asked for.
        busy: Seconds that each link needs for the bytes of that pass at full rate, shape (H,).
        hot: The busiest links.
        parts: Where the time of the shown rank goes; the parts of ``prefill`` add up to ``ttft_s``.
        modality: Share of prompt tokens that are not text, by MoE layer and slot; empty without prompts.
        step_s: That pass under those constants, seconds; of decode the mean over its steps.
        ttft_s: Prefill with what is outside the layers; None without prefill.
        num_sets: Number of sets of constants, of which one is shown.
        ep_overhead: Share of the pass that communication adds under the one shown.
    """

    deployment: Deployment
    of: str
    busy: NDArray[np.float64]
    hot: Sequence[HotLinks]
    parts: Sequence[PassPart]
    modality: Sequence[SlotShare]
    step_s: float
    ttft_s: float | None
    num_sets: int
    ep_overhead: float


def look_inside(
    scenario: Scenario, *, ttft_s: float | None, tpot_s: float | None = None, ep_overhead: float | None = None
) -> Inside:
    """The inside of a deployment, simulated again: prefill and the middle step of decode.

    The set of constants is the one whose times are nearest those that were predicted.

    Args:
        scenario: The deployment.
        ttft_s: What was predicted, seconds; None without prefill.
        tpot_s: What was predicted, seconds; None if it is not known.
        ep_overhead: Share of prefill that communication adds, as predicted; None if it is not known.

    Raises:
        ConfigError: If the scenario cannot be deployed here, such as for a trace that is gone.
    """
    deployment = deploy(scenario)
    sets = constant_sets(deployment)
    under = [deployment.under(constants) for constants in sets]
    known = all_times(deployment, under)
    figures = {key: value for key, value in (("ttft_s", ttft_s), ("tpot_s", tpot_s)) if value}
    chosen = min(range(len(sets)), key=lambda index: _distance(known[index].flat(), figures, ep_overhead))
    conditions, times = under[chosen], known[chosen]
    network = conditions.network
    middle = deployment.decode[len(deployment.decode) // 2 :][:1]
    phases = [flows for step in deployment.chunks or middle for flows in _flows(deployment, step)]
    load = np.zeros(network.topology.num_links)
    for flows in phases:
        load += link_load(flows, len(load))
    again = deployment.num_chunks / len(deployment.chunks) if deployment.chunks else 1.0
    load *= again * deployment.model.num_moe_layers / max(len(deployment.moe_layers), 1)
    passes = [("prefill", deployment.chunks, again), ("decode", middle, 1.0)]
    parts = [row for name, steps, times_run in passes if steps for row in _parts(conditions, name, steps, times_run)]
    if times.outside_s:
        parts.insert(0, PassPart(of="prefill", part="outside layers", seconds=times.outside_s))
    trace, placement = deployment.trace, deployment.placement
    return Inside(
        deployment=deployment,
        of="prefill" if deployment.chunks else "decode",
        busy=load / network.capacity,
        hot=hot_links(network, load, duration=times.asked.step_s, most=_HOT),
        parts=parts,
        modality=[] if trace is None or placement is None else modality_of_slots(trace, placement),
        step_s=times.asked.step_s,
        ttft_s=times.ttft_s,
        num_sets=len(sets),
        ep_overhead=times.asked.ep_overhead,
    )


def _distance(times: Mapping[str, float], figures: Mapping[str, float], ep_overhead: float | None) -> float:
    """The largest difference of times from what was predicted: relative, or of shares."""
    away = [abs(times[key] / figures[key] - 1) for key in figures if key in times]
    if ep_overhead is not None:
        away.append(abs(times["ep_overhead"] - ep_overhead))
    return max(away)


def _flows(deployment: Deployment, step: Step) -> list[Flows]:
    """Everything that a pass sends."""
    flows: list[Flows] = []
    for batch in step.batches:
        flows += [part for layer in batch.exchanges for part in (*layer.dispatch, *layer.combine)]
        if batch.group is not None:
            flows += [*batch.group.gather, *batch.group.scatter] * deployment.model.gathers(
                deployment.scenario.parallelism.tensor
            )
    return flows


def _parts(conditions: Conditions, name: str, steps: Sequence[Step], times_run: float) -> list[PassPart]:
    """Seconds of each part on the busiest of the ranks that end last, and what is left, which is waiting.

    On another rank dispatch and combine would hold the time in which it waits for the busiest.
    Where parts overlap they are cut to the pass in proportion. MoE layers that are simulated stand for those that are not.
    """
    deployment = conditions.deployment
    sampled = set(deployment.moe_layers[deployment.simulated].tolist())
    deeper = deployment.model.num_moe_layers / max(len(sampled), 1)
    seconds: dict[str, float] = {}
    for step in steps:
        time = conditions.time(step, layers=deployment.layers_simulated)
        busiest = _busiest(time)
        mine: dict[str, float] = {}
        total = 0.0
        for span in time.spans:
            if span.rank == busiest:
                total += span.end - span.start
                layers = deeper if span.layer in sampled else 1.0
                mine[span.name] = mine.get(span.name, 0.0) + layers * (span.end - span.start)
        shrink = min(1.0, time.duration / total) if total else 1.0
        for part, value in mine.items():
            seconds[part] = seconds.get(part, 0.0) + shrink * value
        seconds["waiting"] = seconds.get("waiting", 0.0) + deeper * (time.duration - shrink * total)
    return [PassPart(of=name, part=part, seconds=times_run * value) for part, value in seconds.items() if value > 0]


def _busiest(time: StepTime) -> int:
    """The rank with most work of its own among those that end within 1% of the last."""
    work = np.zeros(len(time.finish))
    for span in time.spans:
        if span.name not in _EXCHANGES:
            work[span.rank] += span.end - span.start
    return int(np.where(time.finish >= 0.99 * time.finish.max(), work, -1.0).argmax())


def modality_of_slots(trace: RoutingTrace, placement: ExpertPlacement) -> list[SlotShare]:
    """Share of routed prefill tokens that are not text, per MoE layer and slot; at most 24 layers, evenly spread.

    Example:
        An expert that takes 3 image tokens and 1 text token: 0.75.
    """
    prefill = trace.phase == PREFILL
    if not prefill.any():
        return []
    is_other = np.broadcast_to((trace.modality[prefill] != _TEXT)[:, None], (int(prefill.sum()), trace.top_k))
    order = np.argsort(placement.slot_rank, kind="stable")
    rows: list[SlotShare] = []
    for layer in np.unique(np.linspace(0, trace.num_layers - 1, min(_MOST_LAYERS, trace.num_layers)).astype(int)).tolist():
        experts = trace.expert_ids[prefill, layer].astype(np.int64)
        chosen = experts >= 0
        tokens = np.bincount(experts[chosen], minlength=trace.num_experts)
        others = np.bincount(experts[chosen], weights=is_other[chosen], minlength=trace.num_experts)
        for place, slot in enumerate(order.tolist()):
            expert = int(placement.physical_to_logical_map[layer, slot])
            share = float(others[expert] / tokens[expert]) if tokens[expert] else None
            rows.append(SlotShare(layer=layer, slot=place, rank=int(placement.slot_rank[slot]), share=share))
    return rows
