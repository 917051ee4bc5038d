"""Predict a scenario: the only place where all parts meet.

``trace + placement -> traffic -> network -> times``, once with the scenario's constants or once per draw of a calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeRates, Range, compute_times, find_device, vision_time
from smoes_sim.compute.cores import shared_finish
from smoes_sim.network import ExchangeTime, Flows, Network, exchange_time
from smoes_sim.prediction.constants import INTERVAL, load_calibration, network_under
from smoes_sim.prediction.deployment import Deployment, deploy
from smoes_sim.prediction.memory_fit import memory
from smoes_sim.routing import modality_specialisation
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import Step
from smoes_sim.step.timeline import MicroBatch, StepTime, step_time
from smoes_sim.traffic.copies import transmission_rate

_OF_NETWORK = ("efficiency.", "half_size.", "curve", "jitter", "per_receive", "per_message", "per_exchange")
"""Beginnings of the names of constants that exchanges depend on."""
_STATED = (0.0, 0.5, 1.0)
"""Draws of a prediction without calibration: both efficiencies at the low end, the middle, the high end of their ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Times of a forward pass (of all chunks of a prefill), seconds; see docs/explanation/metrics.md.

    Attributes:
        step_s: The pass.
        ep_comm_s: Its exchanges, each alone on the network, added up.
        ep_exposed_s: What the pass would save if dispatch and combine took no time.
        tp_comm_s: Gathers and scatters of attention groups, each alone on the network, added up.
        bound_s: Lower bound of ``ep_comm_s``.
        network_error: Largest relative error of an exchange alone (``ExchangeTime.error_bound``); 0 is exact.
        lateness_s: Longest wait of a message for the network's next window (see ``Engine``); 0 is exact.
    """

    step_s: float
    ep_comm_s: float
    ep_exposed_s: float
    tp_comm_s: float
    bound_s: float
    network_error: float
    lateness_s: float

    def times(self, number: int) -> PhaseTimes:
        """Of so many passes one after the other; errors stay what they are."""
        return PhaseTimes(
            step_s=number * self.step_s,
            ep_comm_s=number * self.ep_comm_s,
            ep_exposed_s=number * self.ep_exposed_s,
            tp_comm_s=number * self.tp_comm_s,
            bound_s=number * self.bound_s,
            network_error=self.network_error,
            lateness_s=self.lateness_s,
        )


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
    """Times and counts of a deployment: the median over the draws of its constants, and an interval.

    Draws are those of the calibration; without one the ends and the middle of the ranges in which the efficiencies are
    stated to lie. ``on_pass`` is called after each of :func:`num_passes` passes.
    """
    alone: dict[tuple[tuple[str, float], ...], _Alone] = {}
    timed = [times_with(deployment, constants, on_pass=on_pass, alone=alone) for constants in constant_sets(deployment)]
    draws = {key: [values[key] for values in timed] for key in timed[0]}
    values = {key: _median(series) for key, series in draws.items()}
    intervals = {key: interval(series) for key, series in draws.items()} if len(timed) > 1 else {}
    return Prediction(values=_describe(deployment) | values | {"intervals": intervals}, draws=draws)


def constant_sets(deployment: Deployment) -> list[dict[str, float]]:
    """The sets of constants that a prediction is made with."""
    name = deployment.scenario.calibration
    if name is not None:
        calibration = load_calibration(name)
        return [calibration.draw(index) for index in range(calibration.num_draws)]
    ranges = {key: _efficiency(deployment, key) for key in ("flops_efficiency", "memory_efficiency")}
    if all(found.low == found.high for found in ranges.values()):
        return [{}]
    return [{key: found.quantile(part) for key, found in ranges.items()} for part in _STATED]


def num_passes(deployment: Deployment) -> int:
    """Forward passes that a prediction simulates: prefill and some decode steps, for each set of constants."""
    steps = len(deployment.chunks) + len(deployment.decode) + (deployment.mixed is not None)
    return steps * len(constant_sets(deployment))


def _median(series: list[float]) -> float:
    return float(np.median(series))


def interval(series: Sequence[float]) -> list[float]:
    """10th and 90th percentile over the draws of a calibration; of the three of stated ranges the outer ones."""
    if len(series) <= len(_STATED):
        return [float(min(series)), float(max(series))]
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
        flops_efficiency=constants.get("flops_efficiency", _efficiency(deployment, "flops_efficiency").value),
        memory_efficiency=constants.get("memory_efficiency", _efficiency(deployment, "memory_efficiency").value),
        launch=constants.get("launch", spec.launch),
        per_layer=constants.get("per_layer", spec.per_layer),
        weights=spec.weights,
        cache=spec.cache,
    )


def _efficiency(deployment: Deployment, name: Literal["flops_efficiency", "memory_efficiency"]) -> Range:
    """The range of a share of the peak: the scenario's, or the device's."""
    spec = deployment.scenario.compute
    found: float | Range | None = getattr(spec, name)
    if found is None:
        found = getattr(find_device(spec.device), name)
    return found if isinstance(found, Range) else Range(low=found, value=found, high=found)


def outside_layers(
    deployment: Deployment, constants: Mapping[str, float], rates: ComputeRates, *, images: int | None = None
) -> float:
    """Seconds of a prefill outside the layers: measured (``per_prefill``), or the vision tower by roofline.

    ``images`` of the workload's size instead of all of its batch; what was measured is for the batch and is shared out.
    """
    measured = constants.get("per_prefill", deployment.scenario.compute.per_prefill)
    spec = deployment.scenario.workload
    if spec.is_from_trace:
        return measured or 0.0
    full = spec.filled()
    of_batch = (full.images or 0) * full.batch
    if measured is not None:
        return measured if images is None or not of_batch else measured * images / of_batch
    return vision_time(
        deployment.model,
        rates,
        images=of_batch if images is None else images,
        width=full.image_width or 0,
        height=full.image_height or 0,
        num_ranks=deployment.topology.num_ranks,
    )


def computed(deployment: Deployment, work: NDArray[np.float64]) -> float:
    """Seconds until the last rank has computed ``work`` (R,), seconds on a device of its own, if all begin at once."""
    cores = deployment.scenario.compute.shared_cores
    return float((work if cores is None else shared_finish(work, num_cores=cores)).max())


def times_with(
    deployment: Deployment,
    constants: Mapping[str, float],
    *,
    on_pass: Callable[[], None] = lambda: None,
    alone: dict[tuple[tuple[str, float], ...], _Alone] | None = None,
) -> dict[str, float]:
    """All times of a deployment under one set of constants, by JSON key.

    ``alone`` remembers the times of single exchanges, for sets that share the constants of the network.
    """
    network, rates = network_with(deployment, constants), rates_with(deployment, constants)
    about_network = tuple(sorted(item for item in constants.items() if item[0].startswith(_OF_NETWORK)))
    known = {} if alone is None else alone
    single = known.setdefault(about_network, _Alone(network, deployment.scenario.communication.tolerance))
    prefill = phase_times(deployment, deployment.chunks, network, rates, single, on_pass=on_pass).times(
        len(deployment.chunks)
    )
    outside = outside_layers(deployment, constants, rates)
    ttft = prefill.step_s + outside
    result = asdict(prefill) | {"ttft_s": ttft, "outside_s": outside, "ep_overhead": prefill.ep_exposed_s / prefill.step_s}
    result["tokens_per_s_prefill"] = deployment.workload.num_prefill_tokens / ttft
    result["tokens_per_s_prefill_per_rank"] = result["tokens_per_s_prefill"] / deployment.topology.num_ranks
    if deployment.mixed is not None:
        result["mixed_step_s"] = time_step(deployment, deployment.mixed, network, rates).duration
        on_pass()
    if deployment.decode:
        decode = phase_times(deployment, deployment.decode, network, rates, single, on_pass=on_pass)
        result |= {f"decode_{name}": value for name, value in asdict(decode).items()}
        result["decode_ep_overhead"] = decode.ep_exposed_s / decode.step_s
        result["tpot_s"] = decode.step_s
    result["tokens_per_s"] = throughput(deployment, ttft, result.get("tpot_s", 0.0))
    return result


def throughput(deployment: Deployment, ttft: float, tpot: float) -> float:
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
    alone: _Alone,
    *,
    on_pass: Callable[[], None] = lambda: None,
) -> PhaseTimes:
    """Mean times of some forward passes; ``alone`` gives those of single exchanges."""
    rows, errors, waits = [], [], []
    for step in steps:
        real = time_step(deployment, step, network, rates)
        free = time_step(deployment, _at_no_cost(step), network, rates, expert_network=network.at_no_cost())
        layers = [layer for batch in step.batches for layer in batch.exchanges]
        groups = [batch.group for batch in step.batches if batch.group is not None]
        exchanges = [alone.time(phases) for layer in layers for phases in (layer.dispatch, layer.combine)]
        around = [alone.time(phases) for group in groups for phases in (group.gather, group.scatter)]
        communication = sum(exchange.duration for exchange in exchanges)
        bound = sum(exchange.bound for exchange in exchanges)
        tensor = deployment.scenario.parallelism.tensor
        shared = deployment.model.gathers(tensor) * sum(exchange.duration for exchange in around)
        rows.append((real.duration, communication, real.duration - free.duration, shared, bound))
        errors += [exchange.error_bound for exchange in exchanges + around]
        waits.append(real.lateness)
        on_pass()
    step_s, ep_comm_s, ep_exposed_s, tp_comm_s, bound_s = (float(value) for value in np.mean(rows, axis=0))
    return PhaseTimes(
        step_s=step_s,
        ep_comm_s=ep_comm_s,
        ep_exposed_s=ep_exposed_s,
        tp_comm_s=tp_comm_s,
        bound_s=bound_s,
        network_error=max(errors, default=0.0),
        lateness_s=max(waits, default=0.0),
    )


def _at_no_cost(step: Step) -> Step:
    """The same step with dispatch and combine that take no time."""
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
    deployment: Deployment,
    step: Step,
    network: Network,
    rates: ComputeRates,
    *,
    record_links: bool = False,
    expert_network: Network | None = None,
) -> StepTime:
    """Simulate one forward pass; ``record_links`` keeps the utilisation of links over time.

    ``expert_network`` carries dispatch and combine instead of ``network``.
    """
    tensor = deployment.scenario.parallelism.tensor
    batches = [
        MicroBatch(
            times=compute_times(deployment.model, batch.load, rates, tensor=tensor),
            exchanges=batch.exchanges,
            group=batch.group,
        )
        for batch in step.batches
    ]
    return step_time(
        deployment.model,
        batches,
        network,
        overlap=deployment.scenario.overlap,
        record_links=record_links,
        tolerance=deployment.scenario.communication.tolerance,
        shared_cores=deployment.scenario.compute.shared_cores,
        expert_network=expert_network,
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
        "memory": _memory(deployment),
        "not_counted": _not_counted(deployment),
    }
    if decode and decode[0].traffic:
        described["decode_imbalance"] = float(np.mean([step.traffic.imbalance() for step in decode if step.traffic]))
    if trace is not None and placement is not None:
        rates = asdict(transmission_rate(trace, placement, deployment.home))
        described["transmission_rate"] = {name: None if np.isnan(value) else value for name, value in rates.items()}
        msi = float(np.mean(modality_specialisation(trace)))
        described["msi"] = None if np.isnan(msi) else msi
    return described


def _memory(deployment: Deployment) -> dict[str, Any]:
    """Bytes of the busiest rank by part, and whether they fit."""
    fit = memory(deployment)
    return {
        "fits": fit.fits,
        "ranks_needed": fit.ranks_needed,
        "bytes_needed": fit.need.total,
        "bytes_usable": fit.usable,
        "weights": fit.need.weights,
        "buffers": fit.need.buffers,
        "cache_bytes_per_token": fit.need.cache_per_token,
        "cache_tokens": fit.need.cached,
        "cache_capacity_tokens": fit.cache_capacity,
    }


def _not_counted(deployment: Deployment) -> list[str]:
    """What the times leave out."""
    vision: list[str] = []
    scenario = deployment.scenario
    if deployment.workload.sequence_vision_tokens.any() and scenario.compute.per_prefill is None:
        unknown = deployment.model.vision is None or scenario.workload.is_from_trace
        vision = ["vision encoder"] if unknown and scenario.calibration is None else []
    return [*vision, "keys and values between ranks", "sampling"]


def _policy(deployment: Deployment) -> str:
    """The router's name; for a trace file the policy in its metadata (``trace synthesize``), else ``captured``.

    ``+skip`` behind it where slots are left out.
    """
    routing, trace = deployment.scenario.routing, deployment.trace
    if trace is None:
        return "dense"
    if routing.trace is None:
        return routing.name
    return str(trace.metadata.get("policy", "captured")) + ("" if routing.skip is None else "+skip")
