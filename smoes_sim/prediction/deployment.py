"""A scenario made concrete, and the same under one set of constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeRates, Range, compute_times, find_device, vision_time
from smoes_sim.compute.cores import shared_finish
from smoes_sim.models import ModelShape
from smoes_sim.network import Network
from smoes_sim.placement import ExpertPlacement
from smoes_sim.prediction.attention import CacheMove, cache_move
from smoes_sim.prediction.constants import network_under
from smoes_sim.routing import (
    RoutingTrace,
)
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import Step
from smoes_sim.step.layers import PassLayer, pass_layers, some_layers
from smoes_sim.step.parts import StepParts
from smoes_sim.step.timeline import MicroBatch, StepTime, step_time
from smoes_sim.topology import Topology
from smoes_sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deployment:
    """Everything that a prediction needs but the constants.

    Attributes:
        scenario: What was asked.
        topology: What is wired to what.
        parts: What the steps share.
        prefill: The whole prefill as one step, for its traffic; None where only decode steps are asked for.
        chunks: The steps that prefill takes, one after the other, or an evenly spaced sample of them; empty without it.
        decode: An evenly spaced sample of the decode steps; empty where there is none (one output token, phase prefill).
        num_chunks: Number of steps like those of ``chunks`` that prefill takes: its tokens over their mean.
        num_decode_steps: Number of all decode steps.
        mixed: A middle chunk of prefill and a decode step in one; None where prefill is not cut into chunks.
        cache_move: The cache on its way to the ranks that decode; None where it is there.
        moe_layers: Indices in the model of the MoE layers that are routed; the rows of traffic and exchanges.
        simulated: Rows of those whose exchanges are simulated, ascending.
    """

    scenario: Scenario
    topology: Topology
    parts: StepParts
    prefill: Step | None
    chunks: Sequence[Step]
    decode: Sequence[Step]
    num_chunks: float
    num_decode_steps: int
    mixed: Step | None
    cache_move: CacheMove | None
    moe_layers: NDArray[np.int64]
    simulated: NDArray[np.int64]

    def under(self, constants: Mapping[str, float]) -> Conditions:
        """This deployment under one set of constants."""
        return conditions_of(self, constants)

    def on(self, network: Network) -> Deployment:
        """The same tokens, routing and placement on another network between the same ranks."""
        parts = replace(self.parts, network=network)
        return replace(
            self,
            parts=parts,
            topology=network.topology,
            prefill=None if self.prefill is None else self.prefill.on(parts),
            chunks=[step.on(parts) for step in self.chunks],
            decode=[step.on(parts) for step in self.decode],
            mixed=None if self.mixed is None else self.mixed.on(parts),
            cache_move=cache_move(parts),
        )

    @property
    def steps(self) -> list[Step]:
        """The prefill as a whole, if there is one, then the decode steps."""
        return [*([] if self.prefill is None else [self.prefill]), *self.decode]

    @property
    def asked(self) -> Sequence[Step]:
        """The steps that figures without the name of a phase describe: the prefill, or decode where there is no prefill."""
        return self.decode if self.prefill is None else [self.prefill]

    @property
    def imbalance(self) -> float:
        """Routed tokens of the busiest rank over the mean, in the steps of :attr:`asked`; 1 for a dense model."""
        found = [step.traffic.imbalance() for step in self.asked if step.traffic]
        return float(np.mean(found)) if found else 1.0

    @property
    def model(self) -> ModelShape:
        """The model's shape."""
        return self.parts.model

    @property
    def num_around(self) -> int:
        """Number of exchanges around attention in a pass, one there and back each; see ``ModelShape.gathers``."""
        if self.parts.spread is not None:
            return self.model.layers
        return self.model.gathers(self.scenario.parallelism.tensor)

    @property
    def layers_simulated(self) -> list[PassLayer]:
        """Layers of a simulated pass: the dense ones and the sample of the MoE layers, in order."""
        return some_layers(pass_layers(self.model, self.moe_layers.tolist()), self.simulated.tolist())

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
        return None if self.parts.experts is None else self.parts.experts.trace

    @property
    def placement(self) -> ExpertPlacement | None:
        """Where the experts are; None for a dense model."""
        return None if self.parts.experts is None else self.parts.experts.placement

    @property
    def home(self) -> NDArray[np.int64]:
        """Home rank of each token, (T,)."""
        return self.parts.home


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What :meth:`~smoes_sim.prediction.deployment.Deployment.under` returns.

    Attributes:
        deployment: The deployment.
        network: Its network under the constants.
        rates: Its compute rates under the constants.
        per_prefill: Seconds of a prefill of the whole batch outside the layers, where they are measured or given; else None.
    """

    deployment: Deployment
    network: Network
    rates: ComputeRates
    per_prefill: float | None

    @property
    def outside(self) -> float:
        """Seconds of a prefill of the whole batch outside the layers; 0 without prefill."""
        return 0.0 if self.deployment.prefill is None else self.outside_of(None)

    def outside_of(self, images: int | None) -> float:
        """Seconds of a prefill outside the layers: the given ``per_prefill``, or the vision tower by roofline.

        Args:
            images: Number of images of the workload's size; None for those of the whole batch. A given ``per_prefill``
                holds for the whole batch and is divided in proportion to the images.
        """
        spec = self.deployment.scenario.workload
        if spec.is_from_trace:
            return self.per_prefill or 0.0
        full = spec.filled()
        of_batch = (full.images or 0) * self.deployment.workload.num_sequences
        if self.per_prefill is not None:
            return self.per_prefill if images is None or not of_batch else self.per_prefill * images / of_batch
        return vision_time(
            self.deployment.model,
            self.rates,
            images=of_batch if images is None else images,
            width=full.image_width or 0,
            height=full.image_height or 0,
            num_ranks=self.deployment.topology.num_ranks,
        )

    def micro_batches(self, step: Step) -> list[MicroBatch]:
        """The micro-batches of a step with their compute times."""
        layout = self.deployment.scenario.parallelism
        return [
            MicroBatch(
                times=compute_times(
                    self.deployment.model,
                    batch.load,
                    self.rates,
                    tensor=layout.tensor,
                    expert_tensor=layout.expert_tensor,
                ),
                exchanges=batch.exchanges,
                group=batch.group,
            )
            for batch in step.batches
        ]

    def time(
        self,
        step: Step,
        *,
        record_links: bool = False,
        expert_network: Network | None = None,
        layers: Sequence[PassLayer] | None = None,
    ) -> StepTime:
        """The simulated times of one forward pass, by the exact engine.

        Args:
            step: What is sent and computed.
            record_links: Keep the utilisation of every link over time.
            expert_network: Carries dispatch and combine instead of the network of these conditions.
            layers: Layers of the pass. Default: all that the deployment has routed.
        """
        scenario, deployment = self.deployment.scenario, self.deployment
        return step_time(
            deployment.model,
            self.micro_batches(step),
            self.network,
            overlap=scenario.overlap,
            record_links=record_links,
            tolerance=scenario.communication.tolerance,
            shared_cores=self.shared_cores,
            expert_network=expert_network,
            layers=pass_layers(deployment.model, deployment.moe_layers.tolist()) if layers is None else layers,
        )

    @property
    def shared_cores(self) -> int | None:
        """Number of cores that all ranks share; None if each has a device of its own."""
        return self.deployment.scenario.compute.shared_cores

    def slowest(self, work: NDArray[np.float64]) -> float:
        """Seconds until the slowest rank finishes; all start together.

        Args:
            work: Compute seconds of each rank on a device of its own, shape (R,).
        """
        cores = self.shared_cores
        return float((work if cores is None else shared_finish(work, num_cores=cores)).max())


def conditions_of(deployment: Deployment, constants: Mapping[str, float]) -> Conditions:
    """A deployment under a set of constants; what the set does not name stays as the scenario says."""
    return Conditions(
        deployment=deployment,
        network=network_under(deployment.network, constants),
        rates=rates_under(deployment.scenario, constants),
        per_prefill=constants.get("per_prefill", deployment.scenario.compute.per_prefill),
    )


def rates_under(scenario: Scenario, constants: Mapping[str, float]) -> ComputeRates:
    """Compute rates under a set of constants; what the set does not name stays as the scenario says."""
    spec = scenario.compute
    return ComputeRates(
        device=find_device(spec.device),
        flops_efficiency=constants.get("flops_efficiency", efficiency_range(scenario, "flops_efficiency").value),
        memory_efficiency=constants.get("memory_efficiency", efficiency_range(scenario, "memory_efficiency").value),
        launch=constants.get("launch", spec.launch),
        per_layer=constants.get("per_layer", spec.per_layer),
        weights=spec.weights,
        cache=spec.cache,
    )


def efficiency_range(scenario: Scenario, name: Literal["flops_efficiency", "memory_efficiency"]) -> Range:
    """The range of a share of the device's peak: that of the scenario, or that of the device."""
    spec = scenario.compute
    found: float | Range | None = getattr(spec, name)
    if found is None:
        found = getattr(find_device(spec.device), name)
    return found if isinstance(found, Range) else Range(low=found, value=found, high=found)
