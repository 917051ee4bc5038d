"""Cases: measured rows that name a topology or a scenario, ready for predictions under any constants.

The fit and the validation use the same code: ``case.duration(constants)`` runs the simulator on what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from smoes_sim.compute import AttentionTimes, ComputeTimes, compute_times
from smoes_sim.errors import MeasurementError
from smoes_sim.measurements import Measurement
from smoes_sim.network import Flows, Network, Order, Schedule, exchange_time, phases_of
from smoes_sim.prediction.constants import network_under
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.scenario import load_scenario
from smoes_sim.step.build import Step
from smoes_sim.step.timeline import MicroBatch, step_time
from smoes_sim.topology import find_topology
from smoes_sim.traffic.skewed import Matrix, read_matrix, uniform_matrix
from smoes_sim.yaml_files import nearest

_TOLERANCE = 1e-4
"""Relative tolerance of exchanges with many messages; exchanges with few messages are exact."""
_AROUND = ("attention_gather", "attention_scatter")
"""Exchanges around the scores of sequences that live on several ranks."""
PHASES = ("dispatch", "experts", "combine", "shared", "layer", "step", *_AROUND)
"""Parts of a forward pass that a row may time."""


class CaseReader:
    """Makes cases of rows; rows with the same topology or scenario share one network or deployment.

    Each file is read once per reader. Create a reader for each fit or validation, so that the next one sees edited files.
    """

    def __init__(self) -> None:
        self._networks: dict[tuple[str, float], Network] = {}
        self._deployments: dict[str, Deployment] = {}

    def read(self, row: Measurement) -> SimulatedCase:
        """The case of a row that names a topology or a scenario.

        Raises:
            ConfigError: If its files are missing or broken, or contradict the row.
        """
        try:
            if row.scenario:
                return _step_case(row, self._deployment)
            return _exchange_case(row, self._network)
        except MeasurementError as error:
            raise error.at(row.id) from None

    def _network(self, name: str, send_buffer: float) -> Network:
        key = name, send_buffer
        if key not in self._networks:
            self._networks[key] = Network.on(find_topology(name), send_buffer=send_buffer)
        return self._networks[key]

    def _deployment(self, path: str) -> Deployment:
        if path not in self._deployments:
            scenario = load_scenario(path)
            self._deployments[path] = deploy(scenario.model_copy(update={"calibration": None}), whole=True)
        return self._deployments[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeCase:
    """An exchange that starts on all ranks at the same time."""

    row: Measurement
    network: Network
    matrix: Matrix
    schedule: Schedule
    order: Order

    @property
    def family(self) -> str:
        """Operation and schedule, the line of the table of errors."""
        name = self.row.op if self.row.mode == "sendrecv" else ("alltoallv" if self.row.matrix else "alltoall")
        return f"{name}, {self.schedule}"

    @property
    def kind(self) -> str:
        """Error group of the row: its schedule, or ``sendrecv``. Rows of one group share one error estimate."""
        return "sendrecv" if self.row.mode == "sendrecv" else self.schedule

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants that matter: of the software, and of the link kinds on the routes."""
        phases = [flows for matrix in self._ways for flows in self._phases(self.network, matrix)]
        return (*_of_software(self.row), *_of_links(self.network, phases))

    def duration(self, constants: Mapping[str, float]) -> float:
        """Seconds until the last rank has finished; for a message and its reply the mean of both directions."""
        network = network_under(self.network, constants)
        ways = [self._phases(network, matrix) for matrix in self._ways]
        return float(np.mean([exchange_time(network, phases, tolerance=_TOLERANCE).duration for phases in ways]))

    @property
    def _ways(self) -> list[Matrix]:
        """Traffic matrices that are sent one after the other: with ``sendrecv`` of a matrix also the reply."""
        return [self.matrix, self.matrix.T] if self.row.mode == "sendrecv" and self.row.matrix else [self.matrix]

    def _phases(self, network: Network, matrix: Matrix) -> list[Flows]:
        return phases_of(network, [matrix], schedule=self.schedule, order=self.order, rendezvous=True)


def _exchange_case(row: Measurement, network_of: Callable[[str, float], Network]) -> ExchangeCase:
    if not row.topology:
        raise MeasurementError("topology is empty. Name the shipped topology or the file that was measured.")
    network = network_of(row.topology_name, row.send_buffer or 0.0)
    num_ranks = network.topology.num_ranks
    if row.num_ranks != num_ranks:
        raise MeasurementError(
            f"nodes = {row.nodes}, ranks_per_node = {row.ranks_per_node}: {row.topology} has {num_ranks} ranks. "
            "Name what was measured."
        )
    schedule = row.schedule or "direct"
    for name, value, known in (("schedule", schedule, get_args(Schedule)), ("order", row.order, get_args(Order))):
        if value and value not in known:
            raise MeasurementError(f'{name} = "{value}" is unknown. {nearest(value, known)}')
    return ExchangeCase(
        row=row,
        network=network,
        matrix=_matrix(row, num_ranks),
        schedule=schedule,  # type: ignore[arg-type]  # one of its words, as checked
        order=row.order or "shifted",  # type: ignore[arg-type]
    )


def _matrix(row: Measurement, num_ranks: int) -> Matrix:
    """Bytes from rank to rank, (R, R): from the row's file, else equal blocks, or the ring of sendrecv in nccl-tests."""
    if row.matrix:
        return read_matrix(row.folder / row.matrix, num_ranks)
    if row.size is None:
        raise MeasurementError("bytes_per_rank and matrix are both empty. Fill in one of them.")
    if row.mode == "alltoall":
        return uniform_matrix(num_ranks, row.size)
    if row.mode == "sendrecv":
        return row.size * np.roll(np.eye(num_ranks), 1, axis=1)
    raise MeasurementError(f'mode = "{row.mode}" without a matrix is unknown. Write alltoall or sendrecv, or add a matrix.')


def _of_software(row: Measurement) -> tuple[str, ...]:
    """Names of the software constants. Gloo also has scatter of its kernel streams, and a notice per receive."""
    return ("per_exchange", "per_message", *(("jitter", "per_receive") if "gloo" in row.library.lower() else ()))


def _of_links(network: Network, phases: Sequence[Flows]) -> list[str]:
    """Names of the efficiencies of the link kinds on the routes, except the link from a device to its own NIC."""
    topology = network.topology
    kinds: set[str] = set()
    for flows in phases:
        links = network.router.compile(flows.source, flows.destination).links
        kinds |= {topology.link_kinds[kind] for kind in np.unique(topology.link_kind[links])}
    return [f"efficiency.{kind}" for kind in sorted(kinds - {"host-bus"})]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCase:
    """A part of a prefill, or of the first decode step of a scenario that decodes only.

    One phase of one MoE layer, the whole layer, or the whole pass.
    """

    row: Measurement
    deployment: Deployment

    @property
    def family(self) -> str:
        """Phase and routing policy, the line of the table of errors."""
        return f"{self.row.phase}, {self.deployment.scenario.routing.name}"

    @property
    def kind(self) -> str:
        """Error group of the row: its phase. Rows of one group share one error estimate."""
        return self.row.phase

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants that matter: of the device for computation, of the network for communication."""
        step, index = self.deployment.steps[0], self.row.layer or 0
        if self.row.phase in _AROUND:
            phases = _exchange(step, index, self.row.phase)
        else:
            phases = [*_exchange(step, index, "dispatch"), *_exchange(step, index, "combine")]
        sends = [*_of_software(self.row), *_of_links(self.deployment.network, phases)]
        computes = ["flops_efficiency", "memory_efficiency", "launch"]
        used = {
            "dispatch": sends,
            "combine": sends,
            **dict.fromkeys(_AROUND, sends),
            "experts": computes,
            "shared": computes,
        }
        return tuple(used.get(self.row.phase, [*sends, *computes]))

    def duration(self, constants: Mapping[str, float]) -> float:
        """Seconds from the common start until the last rank has finished."""
        conditions = self.deployment.under(constants)
        step, index, phase = self.deployment.steps[0], self.row.layer or 0, self.row.phase
        if phase == "step":
            return conditions.time(step).duration
        times = [compute_times(self.deployment.model, batch.load, conditions.rates) for batch in step.batches]
        return phase_time(conditions, step, times, index, phase=phase, tolerance=_TOLERANCE)


def phase_time(
    conditions: Conditions,
    step: Step,
    times: Sequence[ComputeTimes],
    index: int,
    *,
    phase: str,
    tolerance: float,
) -> float:
    """Seconds of a part of one MoE layer, from a common start of all ranks until the last one has finished.

    Args:
        conditions: The deployment under a set of constants.
        step: A forward pass of it.
        times: Compute times of each of its batches.
        index: Which MoE layer.
        phase: ``dispatch``, ``experts``, ``combine``, ``shared`` or ``layer``, all of them without barriers between; or
            ``attention_gather`` or ``attention_scatter`` before it, where sequences live on several ranks.
        tolerance: Relative error of an exchange with many messages.
    """
    if phase == "experts":
        return max(conditions.slowest(part.experts[index]) for part in times)
    if phase == "shared":
        return max(conditions.slowest(part.shared) for part in times)
    if phase == "layer":
        return _layer_time(conditions, step, times, index, tolerance=tolerance)
    return exchange_time(conditions.network, _exchange(step, index, phase), tolerance=tolerance).duration


def _exchange(step: Step, index: int, phase: str) -> Sequence[Flows]:
    """Messages of a phase of one MoE layer; none around attention where every sequence is on one rank."""
    batch = step.batches[0]
    if phase in _AROUND:
        around = None if batch.attention is None else batch.group
        return [] if around is None else around.gather if phase == "attention_gather" else around.scatter
    layer = batch.exchanges[index]
    return layer.dispatch if phase == "dispatch" else layer.combine


def _layer_time(
    conditions: Conditions,
    step: Step,
    times: Sequence[ComputeTimes],
    index: int,
    *,
    tolerance: float,
) -> float:
    """Seconds of one MoE layer that all ranks start together, without barriers between its phases.

    Dispatch, experts, combine and shared experts; ``times`` are of each batch of the step, ``index`` counts MoE layers.
    """
    scenario = conditions.deployment.scenario
    model = conditions.deployment.model.model_copy(update={"layers": 1, "dense_layers": 0, "moe_every": 1})
    batches = []
    for batch, of_all in zip(step.batches, times, strict=True):
        none = np.zeros_like(of_all.shared)
        attention, experts = AttentionTimes.undivided(none), of_all.experts[index : index + 1]
        own = replace(of_all, attention=attention, gate=none, dense=none, head=none, experts=experts)
        batches.append(MicroBatch(times=own, exchanges=[batch.exchanges[index]]))
    return step_time(
        model,
        batches,
        conditions.network,
        overlap=scenario.overlap,
        tolerance=tolerance,
        shared_cores=scenario.compute.shared_cores,
    ).duration


def _step_case(row: Measurement, deployment_of: Callable[[str], Deployment]) -> StepCase:
    if row.phase not in PHASES:
        raise MeasurementError(f'phase = "{row.phase}" is unknown. {nearest(row.phase, PHASES)}')
    deployment = deployment_of(str(row.folder / row.scenario))
    num_layers = len(deployment.steps[0].batches[0].exchanges)
    if row.phase != "step" and (row.layer is None or row.layer >= num_layers):
        raise MeasurementError(f"layer = {row.layer}: the scenario has the MoE layers 0 to {num_layers - 1}. Fix it.")
    if row.phase in _AROUND and not _exchange(deployment.steps[0], 0, row.phase):
        raise MeasurementError(
            f"phase = {row.phase}: attention sends nothing there in this scenario. Name another scenario."
        )
    return StepCase(row=row, deployment=deployment)


SimulatedCase = ExchangeCase | StepCase
"""Cases of the simulator; both have ``row``, ``family``, ``kind``, ``constants`` and ``duration(constants)``."""
