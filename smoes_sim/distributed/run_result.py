"""What a run gives: medians beside predictions, as a table, as JSON and as a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, pairs, ranged, time_column
from smoes_sim.distributed.hosts import is_loopback, network_words
from smoes_sim.distributed.prediction import predict_layers
from smoes_sim.distributed.rows import LayerRow, Measured, layer_rows

_UNCALIBRATED = "NOT calibrated: nominal rates, efficiencies in their stated ranges"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedStep:
    """One forward pass of a run.

    Attributes:
        step: 0, 1, ... in the order of execution: the prefill, if there is one, then the decode steps.
        phase: ``prefill`` or ``decode``.
        tokens: Number of tokens of all ranks.
    """

    step: int
    phase: str
    tokens: int


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult(Result):
    """What was run on what, and medians with the predictions beside them.

    Attributes:
        measured: The rows of all ranks, the deployment and the facts.
        steps: The forward passes.
        medians: One row per step, MoE layer and phase.
    """

    measured: Measured
    steps: tuple[ExecutedStep, ...]
    medians: tuple[LayerRow, ...]

    @property
    def is_on_its_topology(self) -> bool:
        """Whether the bytes went over a network that the scenario's topology may describe; loopback is none."""
        facts = self.measured.facts
        return not is_loopback(facts.system, facts.per_rank)

    @property
    def ran_on(self) -> str:
        """The ranks and the network that were really used, in words."""
        facts = self.measured.facts
        return network_words(facts.system, facts.per_rank)

    def summary(self) -> dict[str, Any]:
        """The JSON document without the rows of each rank: ``summary.json`` of a run's folder."""
        deployment = self.measured.deployment
        scenario = deployment.scenario
        return {
            "model": deployment.model.name,
            "ran_on": self.ran_on,
            "topology": deployment.topology.name,
            "ranks": deployment.topology.num_ranks,
            "nodes": deployment.topology.num_nodes,
            "moe_layers": list(deployment.model.moe_layer_indices),
            "token_placement": scenario.placement.tokens,
            "expert_placement": str(scenario.expert_rule),
            **scenario.communication.model_dump(include={"library", "deduplicate", "dispatch", "combine"}),
            "calibration": scenario.calibration,
            "steps": [asdict(step) for step in self.steps],
            "medians": [asdict(row) for row in self.medians],
            "facts": self.measured.facts.to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim run``."""
        return self.summary() | {"rows": [asdict(row) for row in self.measured.rows]}

    def records(self) -> list[dict[str, Any]]:
        """One row per step, MoE layer and phase."""
        return [asdict(row) for row in self.medians]

    def tables(self) -> Sequence[Table]:
        """What was run, then sums over the layers per step and phase; decode as the mean over its steps."""
        return [self._head(), self._body()]

    def _head(self) -> Table:
        deployment, facts = self.measured.deployment, self.measured.facts
        scenario, communication = deployment.scenario, deployment.scenario.communication
        name = deployment.topology.name
        where = f"on topology {name}"
        if not self.is_on_its_topology:
            where += ", which this run did not use: no errors are printed"
        source = f"with {scenario.calibration}, [10%, 90%] of its draws" if scenario.calibration else _UNCALIBRATED
        return pairs(
            {
                "measured": f"{self.ran_on}; {facts.library}; {facts.per_rank[0].cpus} processors a host",
                "predicted": where,
                "": source,
                "model": f"{deployment.model.name}, {len(deployment.model.moe_layer_indices)} MoE layers, "
                f"{facts.activation} activations",
                "placement": f"experts {scenario.expert_rule}, tokens {scenario.placement.tokens}",
                "exchange": f"{communication.library}, deduplicate {communication.deduplicate}, "
                f"dispatch {communication.dispatch}, combine {communication.combine}",
            }
        )

    def _body(self) -> Table:
        sums = _sums(self.medians, self.steps)
        unit, form = time_column([part.measured for part in sums])
        cpu_unit, cpu_form = time_column([part.cpu for part in sums])
        header = ["step", "phase", f"measured ({unit})", f"predicted ({unit})", "error (%)", "MB sent", f"cpu ({cpu_unit})"]
        rows = [
            [
                part.step,
                part.phase,
                ranged(part.measured, part.measured_range, form),
                ranged(part.predicted, part.predicted_range, form),
                f"{100 * (part.predicted / part.measured - 1):+.1f}",
                f"{part.sent * 1e-6:.4g}",
                cpu_form(part.cpu),
            ]
            for part in sums
        ]
        if not self.is_on_its_topology:
            header, rows = _without(header, 4), [_without(row, 4) for row in rows]
        repeats = self.measured.facts.repeats
        notes = [
            f"Sums over the layers. Measured: median [10%, 90%] over {repeats} repeats of the slowest rank.",
            "MB sent: between ranks. cpu: of the busiest rank.",
        ]
        return Table(header=header, rows=rows, left=2, notes=notes)


def _without(row: list[str], index: int) -> list[str]:
    return row[:index] + row[index + 1 :]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """A line of the table: sums over the layers, means over the steps; seconds and bytes."""

    step: str
    phase: str
    measured: float
    measured_range: tuple[float, float]
    predicted: float
    predicted_range: tuple[float, float]
    sent: float
    cpu: float


def _sums(medians: Sequence[LayerRow], steps: Sequence[ExecutedStep]) -> list[_Sum]:
    kinds = {step.step: step.phase for step in steps}
    groups: dict[tuple[str, str], list[LayerRow]] = {}
    for row in medians:
        groups.setdefault((kinds[row.step], row.phase), []).append(row)
    found = []
    for (kind, phase), rows in groups.items():
        count = len({row.step for row in rows})
        found.append(
            _Sum(
                step=kind,
                phase=phase,
                measured=sum(row.measured_s for row in rows) / count,
                measured_range=(
                    sum(row.measured_p10_s for row in rows) / count,
                    sum(row.measured_p90_s for row in rows) / count,
                ),
                predicted=sum(row.predicted_s for row in rows) / count,
                predicted_range=(
                    sum(row.predicted_low_s for row in rows) / count,
                    sum(row.predicted_high_s for row in rows) / count,
                ),
                sent=sum(row.bytes_remote for row in rows) / count,
                cpu=sum(row.cpu_s for row in rows) / count,
            )
        )
    return found


def summarise(measured: Measured) -> RunResult:
    """The result of a run: what was measured, and the simulator's predictions beside it."""
    deployment = measured.deployment
    tokens = [sum(step.batches[0].load.tokens.tolist()) for step in deployment.steps]
    phases = [*(["prefill"] if deployment.prefill else []), *("decode" for _ in deployment.decode)]
    return RunResult(
        measured=measured,
        steps=tuple(
            ExecutedStep(step=step, phase=phase, tokens=count)
            for step, (phase, count) in enumerate(zip(phases, tokens, strict=True))
        ),
        medians=tuple(layer_rows(measured.rows, predict_layers(deployment))),
    )
