"""What a deployment sends and holds, whatever the constants are."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from smoes_sim.prediction.constants import load_calibration
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.memory_fit import MemoryFit, memory
from smoes_sim.routing import modality_specialisation
from smoes_sim.scenario import Scenario, load_scenario, scenario_names
from smoes_sim.traffic.copies import transmission_rate
from smoes_sim.workload import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class TransmissionRates:
    """Shares of (token, layer) pairs that need an expert on another rank; None where there is no such token."""

    prefill_vision: float | None
    prefill_text: float | None
    prefill: float | None
    decode: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known of a deployment before any time; see :class:`~smoes_sim.prediction.prediction.Prediction`."""

    phase: Phase
    sequences: int
    context: float
    model: str
    topology: str
    ranks: int
    policy: str
    token_placement: str
    expert_placement: str
    expert_layout: str | None
    deduplicate: str
    bytes_total: float
    bytes_remote: float
    exchanges_bytes: float
    decode_bytes_remote: float
    attention_exchange: str
    decode_attention_exchange: str | None
    attention_exchange_bytes: float
    decode_attention_exchange_bytes: float | None
    cache_move_bytes: float | None
    imbalance: float
    decode_imbalance: float | None
    transmission_rate: TransmissionRates | None
    msi: float | None
    memory: MemoryFit
    not_counted: list[str]
    calibration: str | None
    warnings: list[str]

    def values(self) -> dict[str, object]:
        """The fields by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def describe(deployment: Deployment) -> Description:
    """Traffic, balance, memory and names of a deployment."""
    scenario, trace, placement = deployment.scenario, deployment.trace, deployment.placement
    decode, workload = deployment.decode, deployment.workload
    rates, msi = None, None
    if trace is not None and placement is not None:
        found = transmission_rate(trace, placement, deployment.home, layers=deployment.simulated.tolist())
        rates = TransmissionRates(**{part.name: _known(getattr(found, part.name)) for part in fields(TransmissionRates)})
        msi = _known(float(np.mean(modality_specialisation(trace))))
    fit = memory(deployment)
    model, spread, move = deployment.model, deployment.parts.spread, deployment.cache_move
    passes = deployment.chunks or decode  # the passes of what is asked for, and how many of them there are for each
    per_pass = (deployment.num_chunks or 1.0) / len(passes)
    exchanged = model.layers * float(np.sum([step.attention_bytes for step in passes])) * per_pass
    deeper = deployment.model.num_moe_layers / max(len(deployment.moe_layers), 1)
    remote = deeper * float(np.mean([step.bytes_remote for step in deployment.asked]))
    balances = [step.traffic.imbalance() for step in decode if step.traffic]
    return Description(
        phase=scenario.workload.phase,
        sequences=workload.num_sequences,
        context=float(workload.sequence_prompt_tokens.mean()),
        model=deployment.model.name,
        topology=deployment.topology.name,
        ranks=deployment.topology.num_ranks,
        policy=_policy(deployment),
        token_placement=_token_placement(scenario) if trace is not None else "data_parallel",
        expert_placement=str(scenario.expert_rule) if trace is not None else "replicated",
        expert_layout=None if placement is None else placement.layout,
        deduplicate=scenario.communication.deduplicate,
        bytes_total=deeper * float(np.mean([step.bytes_total for step in deployment.asked])),
        bytes_remote=remote,
        decode_bytes_remote=deeper * float(np.mean([step.bytes_remote for step in decode])) if decode else 0.0,
        attention_exchange=spread.prefill if spread and exchanged and deployment.chunks else "none",
        decode_attention_exchange=(spread.decode if spread else "none") if decode else None,
        attention_exchange_bytes=exchanged,
        decode_attention_exchange_bytes=model.layers * float(np.mean([step.attention_bytes for step in decode]))
        if decode
        else None,
        exchanges_bytes=remote + exchanged,
        cache_move_bytes=None if move is None else move.bytes_moved,
        imbalance=deployment.imbalance,
        decode_imbalance=float(np.mean(balances)) if balances else None,
        transmission_rate=rates,
        msi=msi,
        memory=fit,
        not_counted=_not_counted(deployment),
        calibration=scenario.calibration,
        warnings=_warnings(deployment, fit),
    )


def _token_placement(scenario: Scenario) -> str:
    """The rule of the prompts, and that of decoded tokens where it is another one."""
    rule, decode = scenario.placement.tokens, scenario.placement.decode_tokens
    return rule if decode is None or decode == rule else f"{rule}, decode {decode}"


def _known(value: float) -> float | None:
    """The value; None for NaN, which stands for a mean over nothing."""
    return None if np.isnan(value) else value


def _not_counted(deployment: Deployment) -> list[str]:
    """What the times leave out."""
    vision: list[str] = []
    scenario = deployment.scenario
    has_images = deployment.prefill is not None and deployment.workload.sequence_vision_tokens.any()
    if has_images and scenario.compute.per_prefill is None:
        unknown = deployment.model.vision is None or scenario.workload.is_from_trace
        vision = ["vision encoder"] if unknown and scenario.calibration is None else []
    if deployment.workload.together > 1 and deployment.decode and not deployment.model.mtp_layers:
        vision = [*vision, "what proposes tokens"]
    is_mixed = deployment.parts.spread is not None and len(deployment.model.attentions) > 1
    return [*vision, *(["windows and states between ranks"] if is_mixed else []), "choice of the next token"]


def _warnings(deployment: Deployment, fit: MemoryFit) -> list[str]:
    """What the user should check: one sentence each."""
    found = []
    has, asked = deployment.topology.device, deployment.scenario.compute.device
    if has is not None and has != asked:
        found.append(
            f"compute.device = {asked}, but the ranks of {deployment.topology.name} are {has}: "
            "the network of one system with the compute of another. Change one if that is not meant."
        )
    if (other := _calibrated_elsewhere(deployment.scenario)) is not None:
        found.append(
            f"calibration = {deployment.scenario.calibration} was fitted on {other}, not on this system. "
            "Write calibration=null for nominal rates, or calibrate this one."
        )
    chunk = deployment.scenario.parallelism.prefill_chunk
    if chunk is not None and deployment.prefill is None:
        found.append(f"parallelism.prefill_chunk = {chunk} has no effect: workload.phase = decode has no prefill.")
    return found if fit.fits else [*found, str(fit)]


def _calibrated_elsewhere(scenario: Scenario) -> str | None:
    """The topology and device that a calibration was fitted on, where they are known and not those of the scenario."""
    if scenario.calibration is None:
        return None
    name = load_calibration(scenario.calibration).scenario
    if name not in scenario_names():
        return None
    fitted = load_scenario(name)
    if (fitted.topology, fitted.compute.device) == (scenario.topology, scenario.compute.device):
        return None
    same_device = fitted.compute.device == scenario.compute.device
    in_place = not isinstance(scenario.topology, str)
    return None if same_device and in_place else f"{fitted.topology} with {fitted.compute.device}"


def _policy(deployment: Deployment) -> str:
    """The router's name; for a trace file the policy in its metadata (``trace synthesize``), else ``captured``.

    It ends in ``+skip`` where slots are left out.
    """
    routing, trace = deployment.scenario.routing, deployment.trace
    if trace is None:
        return "dense"
    if routing.trace is None:
        return routing.name
    return str(trace.metadata.get("policy", "captured")) + ("" if routing.skip is None else "+skip")
