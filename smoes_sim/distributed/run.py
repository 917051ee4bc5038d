"""Execute a scenario: every rank runs and times its part of each MoE layer, and rank 0 collects the tables.

Phases are timed one by one from a common start (``dispatch``, ``experts``, ``combine``, ``shared``), then the layer as a
whole without barriers, where a rank may run ahead as in the simulator. Where sequences live on several ranks, attention is
run before every MoE layer and its exchanges are timed. Attention on one rank, router and head are not run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from smoes_sim.distributed.attention import SpreadScores
from smoes_sim.distributed.clock import Clock, clock_of, undisturbed
from smoes_sim.distributed.codec import RowCodec, dtype_of
from smoes_sim.distributed.dispatch import LayerPlan, Transport, local_experts, plan_layer
from smoes_sim.distributed.experts import GroupedExperts, seeded_experts, seeded_generator
from smoes_sim.distributed.facts import all_rank_facts, fixed_send_buffer, library_name, system_facts
from smoes_sim.distributed.group import Backend, RankGroup, join
from smoes_sim.distributed.journal import Journal
from smoes_sim.distributed.layer import CountedExchange, ExpertParallelLayer
from smoes_sim.distributed.patterns import exchange
from smoes_sim.distributed.prediction import PHASES, first_decode
from smoes_sim.distributed.rows import Measured, RunFacts, RunRow
from smoes_sim.distributed.runnable import as_executed, check_memory, check_runnable
from smoes_sim.errors import ConfigError, SimulationError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import Step, decode_steps

WARM_UP = 2
"""Number of repeats before the first that counts: they open connections, allocate and fill caches."""
_NOT_AN_EXPERT = 1_000_000
"""Seed keys of tokens and shared experts, above the id of any expert."""
T = TypeVar("T")


def execute(
    scenario: Scenario, *, repeats: int, folder: Path | None, backend: Backend = "auto", timeout: float = 60.0
) -> Measured | None:
    """Run this process's rank of a scenario; every rank of the run calls this.

    Args:
        scenario: What to execute; the same on every rank.
        repeats: Number of measurements, after two that do not count.
        folder: Each rank writes its rows here as they are measured; None writes nothing.
        backend: ``gloo``, ``nccl``, or ``auto``.
        timeout: Seconds for the ranks to join, and for each phase.

    Returns:
        All rows and facts on rank 0; None on the other ranks.

    Raises:
        ConfigError: If the scenario cannot be run, or needs another number of ranks.
    """
    check_runnable(scenario)
    with ExitStack() as context:
        group = context.enter_context(join(timeout=timeout, backend=backend))
        deployment = deploy(as_executed(scenario, send_buffer=fixed_send_buffer(group.backend)), whole=True)
        _check_fits(deployment, group)
        stack = _Stack(deployment, group)
        clock = context.enter_context(clock_of(group))
        journal = None if folder is None else context.enter_context(Journal(folder, group.place.rank))
        facts = _facts(group, clock, stack.dtype, repeats)
        rows: list[RunRow] = []
        with undisturbed(), torch.inference_mode():
            for repeat in range(-WARM_UP, repeats):
                for row in stack.measure(clock, repeat):
                    if repeat >= 0:
                        rows.append(row)
                        if journal is not None:
                            journal.write(asdict(row))
        rows = _gathered(rows, group)
    return Measured(deployment=deployment, rows=rows, facts=facts) if group.place.rank == 0 else None


def _facts(group: RankGroup, clock: Clock, dtype: torch.dtype, repeats: int) -> RunFacts:
    """Versions, hardware and settings that the rows rest on."""
    return RunFacts(
        system=system_facts(group),
        library=library_name(group),
        clock=clock.kind,
        activation=str(dtype).removeprefix("torch."),
        warmup=WARM_UP,
        repeats=repeats,
        per_rank=all_rank_facts(group),
    )


def _check_fits(deployment: Deployment, group: RankGroup) -> None:
    """Refuse a scenario of another number of ranks, or whose experts do not fit into memory.

    Raises:
        ConfigError: With both values.
    """
    topology, place = deployment.topology, group.place
    if topology.num_ranks != place.num_ranks:
        raise ConfigError(
            f"topology {topology.name} has {topology.num_ranks} ranks, but {place.num_ranks} were started. Start "
            f"{topology.num_ranks}, or override the topology."
        )
    neighbours = 1 if group.backend == "nccl" else group.node_of_rank.count(group.node_of_rank[place.rank])
    check_memory(deployment, num_ranks=neighbours, free=_free_memory(group))


def _free_memory(group: RankGroup) -> float:
    if group.backend == "nccl":
        return float(torch.cuda.mem_get_info(group.device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


class _Stack:
    """The MoE layers of one rank, with the plan and the input tokens of every step."""

    def __init__(self, deployment: Deployment, group: RankGroup) -> None:
        self._rank, self._device, self._group = group.place.rank, group.device, group
        self.dtype = dtype_of(deployment.scenario.communication.combine)
        nodes = deployment.topology.node_of_rank.tolist()
        self._counted = CountedExchange(exchange(deployment.scenario.communication.library, node_of_rank=nodes))
        self._steps = deployment.steps
        workload = deployment.workload
        prompts = [] if deployment.prefill is None else [np.flatnonzero(workload.phase == PREFILL)]
        self._tokens = [*prompts, *decode_steps(workload)]
        layers = range(deployment.model.num_moe_layers)
        self._layers = [self._layer(deployment, layer) for layer in layers]
        self._plans = [[self._plan(deployment, tokens, layer) for layer in layers] for tokens in self._tokens]
        self._inputs = [self._input(deployment, index) for index in range(len(self._steps))]
        self._deployment = deployment
        self._around = CountedExchange(exchange("direct"))
        self._spread = None
        if deployment.parts.spread is not None:
            self._spread = SpreadScores(
                deployment, self._tokens, rank=self._rank, exchange=self._around, device=self._device
            )

    def _layer(self, deployment: Deployment, layer: int) -> ExpertParallelLayer:
        scenario, model, placement = deployment.scenario, deployment.model, deployment.placement
        assert placement is not None

        def made(experts: NDArray[np.int64], inner: int) -> GroupedExperts:
            weights = seeded_experts(
                experts, seed=scenario.seed, layer=layer, hidden=model.hidden, inner=inner, dtype=self.dtype
            )
            return GroupedExperts(*weights).to(self._device)

        experts = made(local_experts(placement, layer, self._rank), model.expert_ffn)
        inner = model.shared_parameters // (3 * model.hidden)
        shared = made(np.array([_NOT_AN_EXPERT]), inner) if inner else None
        communication = scenario.communication
        transport = Transport(
            exchange=self._counted,
            outward=RowCodec(element=communication.dispatch, hidden=model.hidden),
            homeward=RowCodec(element=communication.combine, hidden=model.hidden),
        )
        return ExpertParallelLayer(experts, shared, transport)

    def _plan(self, deployment: Deployment, tokens: NDArray[np.int64], layer: int) -> LayerPlan:
        assert deployment.trace is not None
        assert deployment.placement is not None
        return plan_layer(
            deployment.trace.select(tokens),
            deployment.placement,
            deployment.home[tokens],
            layer=layer,
            rank=self._rank,
            deduplicate=deployment.scenario.communication.deduplicate,
            topology=deployment.topology,
            device=self._device,
        )

    def _input(self, deployment: Deployment, step: int) -> Tensor:
        """The rank's tokens of a step, standard normal, (T, D)."""
        home = deployment.home[self._tokens[step]]
        generator = seeded_generator(deployment.scenario.seed, step, _NOT_AN_EXPERT + 1)
        x = torch.randn(len(home), deployment.model.hidden, generator=generator)
        return x[torch.as_tensor(home == self._rank)].to(self._device, self.dtype)

    def measure(self, clock: Clock, repeat: int) -> Iterator[RunRow]:
        """Rows of one repeat of all steps and layers."""
        if self._spread is not None:
            self._spread.begin()
        for index, step in enumerate(self._steps):
            x = self._inputs[index]
            for number, (layer, plan) in enumerate(zip(self._layers, self._plans[index], strict=True)):
                at = {"step": index, "layer": number, "repeat": repeat}
                if self._spread is not None:
                    yield from self._attend(_Visit(self._group, clock, self._around, plan=plan, **at), self._spread)
                visit = _Visit(self._group, clock, self._counted, plan=plan, **at)
                if layer.shared is not None:
                    visit.time("shared", layer.run_shared, x)
                rows = visit.time("dispatch", layer.dispatch, x, plan)
                partial = visit.time("experts", layer.run_experts, rows, plan)
                visit.time("combine", layer.combine, partial, plan)
                y = visit.time("layer", layer, x, plan)
                visit.check(_layer_bytes(step, number, self._rank))
                yield from visit.rows
                x = functional.rms_norm(x + y, x.shape[1:])

    def _attend(self, visit: _Visit, spread: SpreadScores) -> list[RunRow]:
        """Rows of the attention before one MoE layer; before the first decode step the cache moves."""
        expected = spread.expected(self._steps[visit.step])
        if (visit.step, visit.layer) == (first_decode(self._deployment), 0):
            spread.move(visit)
            expected |= spread.expected_move(self._deployment.cache_move)
        spread.attend(visit.step, visit)
        visit.check(expected)
        return visit.rows


def _layer_bytes(step: Step, layer: int, rank: int) -> dict[str, list[NDArray[np.int64]]]:
    """Bytes to and from each rank in the exchanges of one MoE layer, by the traffic matrix, (2, R) per stage."""
    assert step.traffic is not None
    stages = [stage[layer] for stage in step.traffic.stages]
    dispatch = [np.stack([stage[rank], stage[:, rank]]) * step.dispatch_bytes for stage in stages]
    combine = [np.stack([stage[:, rank], stage[rank]]) * step.combine_bytes for stage in reversed(stages)]
    return {"dispatch": dispatch, "combine": combine, "layer": dispatch + combine}


class _Visit:
    """One pass of one rank through one layer, timed phase by phase."""

    def __init__(
        self,
        group: RankGroup,
        clock: Clock,
        counted: CountedExchange,
        *,
        step: int,
        layer: int,
        repeat: int,
        plan: LayerPlan,
    ) -> None:
        self._group, self._clock, self._counted = group, clock, counted
        self.step, self.layer, self._repeat, self._plan = step, layer, repeat, plan
        self._moved: dict[str, list[NDArray[np.int64]]] = {}
        self.rows: list[RunRow] = []

    def time(self, phase: str, work: Callable[..., T], *arguments: object) -> T:
        """Result of one phase, run from a common start; its row is added to ``rows``."""
        with self._group.operation(f"{phase} of MoE layer {self.layer}, step {self.step}, repeat {self._repeat}"):
            start = self._clock.start()
            cpu = time.thread_time()
            result = work(*arguments)
            end = self._clock.mark()
            cpu = time.thread_time() - cpu
            duration = self._clock.seconds(start, end)
        self._moved[phase] = self._counted.take()
        sent, received = self._remote(phase)
        self.rows.append(
            RunRow(
                step=self.step,
                layer=self.layer,
                phase=phase,
                rank=self._group.place.rank,
                repeat=self._repeat,
                time_s=duration,
                cpu_s=cpu,
                bytes_sent=sent,
                bytes_received=received,
                tokens=self._plan.num_tokens,
                routed_tokens=len(self._plan.row),
                active_experts=int(np.count_nonzero(self._plan.expert_counts)),
            )
        )
        return result

    def together(self, work: Callable[..., T], *arguments: object) -> T:
        """Result of work that is not timed, begun by all ranks together."""
        with self._group.operation(f"scores of MoE layer {self.layer}, step {self.step}, repeat {self._repeat}"):
            self._clock.start()
        return work(*arguments)

    def _remote(self, phase: str) -> tuple[int, int]:
        """Bytes to and from other ranks."""
        rank = self._group.place.rank
        sent, received = (sum(int(part[way].sum() - part[way][rank]) for part in self._moved[phase]) for way in (0, 1))
        return sent, received

    def check(self, expected: Mapping[str, Sequence[NDArray[np.int64]]]) -> None:
        """Compare the bytes that were sent with those that were counted.

        Args:
            expected: Bytes to and from each rank in the exchanges of each phase, (2, R); nothing in the others.

        Raises:
            SimulationError: If a byte is missing or too many.
        """
        for phase in {**self._moved, **expected}:
            moved, wanted = self._moved.get(phase, []), expected.get(phase, [])
            if not np.array_equal(moved, wanted):
                raise SimulationError(
                    f"rank {self._group.place.rank}, MoE layer {self.layer}: {phase} moved {np.array(moved).tolist()} B, "
                    f"the traffic matrix has {np.array(wanted).tolist()} B: please report this."
                )


_NUMBERS = [field.name for field in fields(RunRow) if field.name != "phase"]
_WHOLE = [field.name for field in fields(RunRow) if field.type == "int"]


def _gathered(rows: Sequence[RunRow], group: RankGroup) -> list[RunRow]:
    """The rows of all ranks; every rank has the same number."""
    numbers = [[PHASES.index(row.phase), *(getattr(row, name) for name in _NUMBERS)] for row in rows]
    table = group.gather(np.array(numbers, dtype=np.float64).ravel())
    found = []
    for phase, *values in table.reshape(-1, 1 + len(_NUMBERS)).tolist():
        named: dict[str, Any] = dict(zip(_NUMBERS, values, strict=True))
        found.append(RunRow(phase=PHASES[int(phase)], **named | {name: int(named[name]) for name in _WHOLE}))
    return found
