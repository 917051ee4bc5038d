"""Predict a scenario: the only place where all parts meet.

``trace + placement -> traffic -> network -> times``, once with the scenario's constants or once per draw of a calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from smoes_sim.calibration import INTERVAL, load_calibration, network_under
from smoes_sim.compute import ComputeRates, compute_times, find_device
from smoes_sim.config import Scenario
from smoes_sim.deployment import Deployment, Step, deploy
from smoes_sim.network import ExchangeTime, Flows, Network, exchange_time
from smoes_sim.routing import modality_specialisation
from smoes_sim.timeline import MicroBatch, StepTime, step_time
from smoes_sim.traffic import transmission_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Times of one forward pass, seconds; see docs/metrics.md.

    Attributes:
        step_s: The pass.
        ep_comm_s: Its exchanges, each alone on the network, added up.
        ep_exposed_s: What the pass would save on a network that takes no time.
        bound_s: Lower bound of ``ep_comm_s``.
        network_error: Largest relative error of an exchange alone (``ExchangeTime.error_bound``); 0 is exact.
        lateness_s: Longest wait of a message for the network's next window (see ``Engine``); 0 is exact.
    """

    step_s: float
    ep_comm_s: float
    ep_exposed_s: float
    bound_s: float
    network_error: float
    lateness_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What ``simulate`` prints: ``values`` by JSON key, and per key the values of every draw."""

    values: dict[str, Any]
    draws: dict[str, list[float]]


def simulate(scenario: Scenario) -> Prediction:
    """Predict a scenario.

    Raises:
        ConfigError: If its parts do not fit together.
    """
    return predict(deploy(scenario))


def predict(deployment: Deployment, *, on_pass: Callable[[], None] = lambda: None) -> Prediction:
    """Times and counts of a deployment; with a calibration the median over its draws and an interval.

    ``on_pass`` is called after each of :func:`num_passes` passes.
    """
    scenario = deployment.scenario
    calibration = load_calibration(scenario.calibration) if scenario.calibration else None
    sets: list[Mapping[str, float]] = [{}]
    if calibration is not None:
        sets = [calibration.draw(index) for index in range(calibration.num_draws)]
    timed = [times_with(deployment, constants, on_pass=on_pass) for constants in sets]
    draws = {key: [values[key] for values in timed] for key in timed[0]}
    values = {key: _median(series) for key, series in draws.items()}
    intervals = {key: _interval(series) for key, series in draws.items()} if calibration else {}
    return Prediction(values=_describe(deployment) | values | {"intervals": intervals}, draws=draws)


def num_passes(deployment: Deployment) -> int:
    """Forward passes that a prediction simulates: prefill and some decode steps, for each draw of the calibration."""
    name = deployment.scenario.calibration
    return (1 + len(deployment.decode)) * (load_calibration(name).num_draws if name else 1)


def _median(series: list[float]) -> float:
    return float(np.median(series))


def _interval(series: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(series, INTERVAL)]


def middle_constants(deployment: Deployment, prediction: Prediction) -> dict[str, float]:
    """The calibration's draw whose TTFT is nearest the median: one consistent set to draw a timeline with."""
    if deployment.scenario.calibration is None:
        return {}
    away = np.abs(np.array(prediction.draws["ttft_s"]) - prediction.values["ttft_s"])
    return load_calibration(deployment.scenario.calibration).draw(int(away.argmin()))


def network_with(deployment: Deployment, constants: Mapping[str, float]) -> Network:
    """The deployment's network under a draw of constants."""
    return network_under(deployment.network, constants)


def rates_with(deployment: Deployment, constants: Mapping[str, float]) -> ComputeRates:
    """The deployment's compute rates under a draw of constants."""
    spec = deployment.scenario.compute
    return ComputeRates(
        device=find_device(spec.device),
        flops_efficiency=constants.get("flops_efficiency", spec.flops_efficiency),
        memory_efficiency=constants.get("memory_efficiency", spec.memory_efficiency),
        launch=constants.get("launch", spec.launch),
        per_layer=constants.get("per_layer", spec.per_layer),
    )


def times_with(
    deployment: Deployment, constants: Mapping[str, float], *, on_pass: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """All times of a deployment under one set of constants, by JSON key."""
    network, rates = network_with(deployment, constants), rates_with(deployment, constants)
    prefill = phase_times(deployment, [deployment.prefill], network, rates, on_pass=on_pass)
    ttft = prefill.step_s + constants.get("per_prefill", deployment.scenario.compute.per_prefill)
    result = asdict(prefill) | {"ttft_s": ttft, "ep_overhead": prefill.ep_exposed_s / prefill.step_s}
    result["tokens_per_s_prefill"] = deployment.workload.num_prefill_tokens / ttft
    if deployment.decode:
        decode = phase_times(deployment, deployment.decode, network, rates, on_pass=on_pass)
        result |= {f"decode_{name}": value for name, value in asdict(decode).items()}
        result["decode_ep_overhead"] = decode.ep_exposed_s / decode.step_s
        result["tpot_s"] = decode.step_s
    result["tokens_per_s"] = _throughput(deployment, ttft, result.get("tpot_s", 0.0))
    return result


def _throughput(deployment: Deployment, ttft: float, tpot: float) -> float:
    """Output tokens per second of the batch: prefilled together, then decoded ``decode_batch`` at a time."""
    workload = deployment.workload
    groups = range(0, workload.num_sequences, workload.decode_batch)
    steps = sum(int(workload.sequence_output_tokens[first : first + workload.decode_batch].max()) - 1 for first in groups)
    return float(workload.sequence_output_tokens.sum()) / (ttft + steps * tpot)


def phase_times(
    deployment: Deployment,
    steps: Sequence[Step],
    network: Network,
    rates: ComputeRates,
    *,
    on_pass: Callable[[], None] = lambda: None,
) -> PhaseTimes:
    """Mean times of some forward passes."""
    rows, errors, waits = [], [], []
    alone = _Alone(network, deployment.scenario.communication.tolerance)
    for step in steps:
        real = time_step(deployment, step, network, rates)
        free = time_step(deployment, _at_no_cost(step), network.at_no_cost(), rates)
        layers = [layer for batch in step.batches for layer in batch.exchanges]
        exchanges = [alone.time(phases) for layer in layers for phases in (layer.dispatch, layer.combine)]
        communication = sum(exchange.duration for exchange in exchanges)
        bound = sum(exchange.bound for exchange in exchanges)
        rows.append((real.duration, communication, real.duration - free.duration, bound))
        errors += [exchange.error_bound for exchange in exchanges]
        waits.append(real.lateness)
        on_pass()
    step_s, ep_comm_s, ep_exposed_s, bound_s = (float(value) for value in np.mean(rows, axis=0))
    return PhaseTimes(
        step_s=step_s,
        ep_comm_s=ep_comm_s,
        ep_exposed_s=ep_exposed_s,
        bound_s=bound_s,
        network_error=max(errors, default=0.0),
        lateness_s=max(waits, default=0.0),
    )


def _at_no_cost(step: Step) -> Step:
    """The same step with messages that take no time."""
    batches = [replace(batch, exchanges=[layer.at_no_cost() for layer in batch.exchanges]) for batch in step.batches]
    return replace(step, batches=batches)


class _Alone:
    """Times of exchanges alone on a network; equal exchanges are simulated once."""

    def __init__(self, network: Network, tolerance: float) -> None:
        self._network, self._tolerance = network, tolerance
        self._known: dict[tuple[bytes, ...], ExchangeTime] = {}

    def time(self, phases: Sequence[Flows]) -> ExchangeTime:
        """The time of one exchange."""
        key = tuple(part.tobytes() for flows in phases for part in (flows.source, flows.destination, flows.size))
        if key not in self._known:
            self._known[key] = exchange_time(self._network, phases, tolerance=self._tolerance)
        return self._known[key]


def time_step(
    deployment: Deployment, step: Step, network: Network, rates: ComputeRates, *, record_links: bool = False
) -> StepTime:
    """Simulate one forward pass; ``record_links`` keeps the utilisation of links over time."""
    batches = [
        MicroBatch(times=compute_times(deployment.model, batch.load, rates), exchanges=batch.exchanges)
        for batch in step.batches
    ]
    return step_time(
        deployment.model,
        batches,
        network,
        overlap=deployment.scenario.overlap,
        record_links=record_links,
        tolerance=deployment.scenario.communication.tolerance,
    )


def _describe(deployment: Deployment) -> dict[str, Any]:
    """Everything that does not depend on constants."""
    scenario, trace, placement = deployment.scenario, deployment.trace, deployment.placement
    prefill, decode = deployment.prefill, deployment.decode
    described: dict[str, Any] = {
        "model": deployment.model.name,
        "topology": deployment.topology.name,
        "ranks": deployment.topology.num_ranks,
        "policy": _policy(deployment),
        "token_placement": scenario.placement.tokens if trace is not None else "data_parallel",
        "expert_placement": str(scenario.expert_rule) if trace is not None else "replicated",
        "deduplicate": scenario.communication.deduplicate,
        "bytes_total": prefill.bytes_total,
        "bytes_remote": prefill.bytes_remote,
        "decode_bytes_remote": float(np.mean([step.bytes_remote for step in decode])) if decode else 0.0,
        "imbalance": prefill.traffic.imbalance() if prefill.traffic else 1.0,
        "transmission_rate": None,
        "msi": None,
        "tpot_s": None,
        "fidelity": "fluid",
        "not_counted": ["vision encoder (but for compute.per_prefill)", "keys and values between ranks", "sampling"],
    }
    if decode and decode[0].traffic:
        described["decode_imbalance"] = float(np.mean([step.traffic.imbalance() for step in decode if step.traffic]))
    if trace is not None and placement is not None:
        rates = asdict(transmission_rate(trace, placement, deployment.home))
        described["transmission_rate"] = {name: None if np.isnan(value) else value for name, value in rates.items()}
        msi = float(np.mean(modality_specialisation(trace)))
        described["msi"] = None if np.isnan(msi) else msi
    return described


def _policy(deployment: Deployment) -> str:
    """The router's name; for a trace file the policy in its metadata (``trace synthesize``), else ``captured``."""
    routing, trace = deployment.scenario.routing, deployment.trace
    if trace is None:
        return "dense"
    if routing.trace is None:
        return routing.policy
    return str(trace.metadata.get("policy", "captured"))
