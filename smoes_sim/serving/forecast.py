"""A deployment as a service: its memory bounds the batch, its step model says how long a step takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smoes_sim.compute import StepSize, find_device, memory_of_rank
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.serving.batching import BLOCK, Limits
from smoes_sim.serving.batching import Sequence as Going
from smoes_sim.serving.measures import Objective, measure
from smoes_sim.serving.requests import Request, poisson_requests
from smoes_sim.serving.search import WANTED, largest_rate
from smoes_sim.serving.serve_results import ServedRequests
from smoes_sim.serving.service import Cost, run_service, run_while
from smoes_sim.serving.step_cost import StepBatch, StepCosts
from smoes_sim.serving.step_nodes import StepNodes
from smoes_sim.traffic.copies import copy_bytes

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Rates of a curve, over the largest that keeps the objective."""
SETTLED = 0.5
"""Share of the requests of a curve that come before those that are judged."""
_IDLE = 1e-3
"""Requests per second times seconds of a request at which requests are alone."""
_SPAN = 20
"""A service is steady if it takes at least this many times as long as a request."""
_MOST, _GROWING = 16, 0.1
"""It counts as overloaded if it is not steady with twice the requests that this would take without load while more than a
tenth of them wait at a time, or with 16 times as many."""

_NEAR = 1.1
"""Factor of the first two rates of a search that begins at the result under other constants."""


def limits_of(deployment: Deployment, *, max_batch_tokens: int, max_sequences: int) -> Limits:
    """What bounds the batches of a deployment.

    cache = memory * memory_share - weights - buffers of the largest step, on the busiest rank of an attention group. Where a
    sequence is spread over ranks (another token placement than ``data_parallel``) all ranks are one group, with the limits
    of all of them and a cache that is full when that of the busiest rank is.

    Args:
        deployment: The system.
        max_batch_tokens: Tokens of an attention group in a step.
        max_sequences: Sequences of an attention group that run at a time.

    Raises:
        ConfigError: If weights and buffers leave no room for the cache.
    """
    scenario, num_ranks = deployment.scenario, deployment.topology.num_ranks
    tensor, chunk = scenario.parallelism.tensor, scenario.parallelism.prefill_chunk
    share, members = 1.0, 1
    if scenario.placement.tokens != "data_parallel":
        share, members = float(np.bincount(deployment.home, minlength=num_ranks).max()) / len(deployment.home), num_ranks
    blocks = int(_cache_tokens(deployment, max_batch_tokens, max_sequences, share * members) / share) // BLOCK
    if blocks < 1:
        raise ConfigError(
            f"{deployment.model.name} on {deployment.topology.name}: weights and the buffers of a step of "
            f"{max_batch_tokens} tokens leave no room for a KV cache. Use more ranks or fewer --max-batch-tokens."
        )
    return Limits(
        groups=num_ranks // (tensor * members),
        cache_blocks=blocks,
        max_batch_tokens=members * max_batch_tokens,
        max_sequences=members * max_sequences,
        prefill_chunk=members * min(max_batch_tokens, chunk or max_batch_tokens),
    )


def _cache_tokens(deployment: Deployment, max_batch_tokens: int, max_sequences: int, unevenness: float) -> int:
    """Tokens for whose keys and values the busiest rank has room, beside windows and states of as many sequences as run."""
    scenario, placement = deployment.scenario, deployment.placement
    communication, tensor, hidden = scenario.communication, scenario.parallelism.tensor, deployment.model.hidden
    need = memory_of_rank(
        deployment.model,
        StepSize(
            tokens=int(np.ceil(unevenness * max_batch_tokens / tensor)),
            outputs=max_sequences,
            cached=0,
            near=max_sequences * (deployment.model.window or 0),
            sequences=max_sequences,
            imbalance=deployment.imbalance,
            copy_bytes=copy_bytes(hidden, communication.dispatch) + copy_bytes(hidden, communication.combine),
            has_images=bool(deployment.workload.sequence_vision_tokens.any()),
        ),
        slots=int(placement.slots_per_rank.max()) if placement else 0,
        num_ranks=placement.ep_size if placement else deployment.topology.num_ranks,
        tensor=tensor,
        expert_tensor=scenario.parallelism.expert_tensor,
        weights=scenario.compute.weights,
        cache=scenario.compute.cache,
    )
    usable = find_device(scenario.compute.device).memory * scenario.compute.memory_share
    return need.capacity(usable)


def remembered(steps: StepCosts) -> Cost:
    """A function that gives the seconds of a step and keeps what it has computed.

    Decoded sequences count with their mean context, rounded up to whole blocks of the cache: a difference of less than 1% of
    a step (tests/serving), and equal steps are computed once.

    Args:
        steps: The durations of steps under one set of constants.
    """
    known: dict[tuple[object, ...], float] = {}

    def cost(batch: StepBatch) -> float:
        number = len(batch.decode)
        context = -(-sum(batch.decode) // (number * BLOCK)) * BLOCK if number else 0
        key = (tuple(batch.prefill), number, context, batch.images)
        if key not in known:
            known[key] = steps.seconds(replace(batch, decode=(context,) * number))
        return known[key]

    return cost


def forecast(
    deployment: Deployment,
    requests: Sequence[Request],
    limits: Limits,
    objective: Objective | None = None,
    *,
    costs: Sequence[Cost] | None = None,
    settled: float = 0.0,
    on_run: Callable[[], None] = lambda: None,
) -> ServedRequests:
    """Figures of a service of the same requests under every set of constants: medians, and intervals as of ``simulate``.

    Args:
        deployment: The system.
        requests: In the order of their arrival.
        limits: What bounds a batch.
        objective: What goodput is about.
        costs: A cost function for each set of constants, where they are known already.
        settled: Share of the requests that come first and are served, but not judged.
        on_run: Called after each service.

    Raises:
        ConfigError: If a request never fits, or has images of which the scenario's workload gives no size.
    """
    spec = deployment.scenario.workload
    if any(request.images for request in requests) and (spec.is_from_trace or not spec.filled().images):
        raise ConfigError("requests have images, but the scenario's workload has none to give their size. Add images to it.")
    rows = []
    for cost in costs if costs is not None else _costs(deployment):
        rows.append(measure(run_service(requests, limits, cost), objective, settled=settled))
        on_run()
    series = {key: [row[key] for row in rows] for key in rows[0]}
    values = {key: float(np.median(numbers)) for key, numbers in series.items()}
    intervals = {key: list(interval(numbers)) for key, numbers in series.items()} if len(rows) > 1 else {}
    return ServedRequests(requests=len(requests), **values, intervals=intervals)


def _costs(deployment: Deployment) -> list[Cost]:
    """A cost function for each set of constants; a step that is simulated is known to all."""
    sets = [deployment.under(constants) for constants in constant_sets(deployment)]
    nodes = StepNodes(sets)
    return [remembered(StepCosts(conditions, nodes, place)) for place, conditions in enumerate(sets)]


@dataclass(frozen=True, kw_only=True)
class FoundRates:
    """What :func:`forecast_curve` returns.

    Attributes:
        max_rate_per_s: The largest rate that keeps the objective.
        intervals: Its 80% interval by its key; empty with one set of constants.
        rates: Rates of the services around it.
        rows: Their figures.
    """

    max_rate_per_s: float
    intervals: dict[str, list[float]]
    rates: list[float]
    rows: list[ServedRequests]


def forecast_curve(
    deployment: Deployment,
    limits: Limits,
    objective: Objective,
    *,
    number: int,
    on_run: Callable[[], None] = lambda: None,
) -> FoundRates:
    """The largest rate that keeps an objective for 90% of requests, and a row of :func:`forecast` at rates around it.

    The search is done with every set of constants: ``max_rate_per_s`` is the median, 0 where even requests that are alone
    miss the objective (then the one row is theirs). A rate counts only if the service is steady: requests come for 20 times
    as long as one takes, so that a queue that grows by more than a tenth of the arrivals is seen; the earlier half, which
    finds an emptier system, is not judged. Rows above the largest rate are of a queue that grows as long as requests come.

    Args:
        deployment: The system; requests are those of its workload.
        limits: What bounds a batch.
        objective: The objective.
        number: Requests of each run, at least; as many more as being steady takes.
        on_run: Called after each service.
    """
    costs = _costs(deployment)
    idle = _IDLE / _alone_seconds(deployment, limits, costs[0])
    found, number = _search_all(deployment, limits, objective, costs, idle=idle, number=number, on_run=on_run)
    rate = float(np.median(found))
    rates = [share * rate for share in SHARES] if rate else [idle]
    rows = []
    for offered in rates:
        requests = poisson_requests(deployment, offered, number=number)
        rows.append(forecast(deployment, requests, limits, objective, costs=costs, settled=SETTLED, on_run=on_run))
    intervals = {"max_rate_per_s": list(interval(found))} if len(found) > 1 else {}
    return FoundRates(max_rate_per_s=rate, intervals=intervals, rates=rates, rows=rows)


def largest_rates(
    deployment: Deployment, limits: Limits, objective: Objective, *, number: int, on_run: Callable[[], None] = lambda: None
) -> list[float]:
    """The largest rate that keeps an objective, per second, for every set of constants; see :func:`forecast_curve`.

    Its arguments are those of :func:`forecast_curve`, its median is the ``max_rate_per_s`` of that.

    Example:
        Every request takes one step of 1 s alone, TTFT is at most 1 s: who finds another one in service misses it, which is
        a share of rate * 1 s of all. A tenth may: 0.1 requests per second.
    """
    costs = _costs(deployment)
    idle = _IDLE / _alone_seconds(deployment, limits, costs[0])
    return _search_all(deployment, limits, objective, costs, idle=idle, number=number, on_run=on_run)[0]


def _search_all(
    deployment: Deployment,
    limits: Limits,
    objective: Objective,
    costs: Sequence[Cost],
    *,
    idle: float,
    number: int,
    on_run: Callable[[], None],
) -> tuple[list[float], int]:
    """The largest rate under every set of constants, and the number of requests that the longest of these services took.

    Each search begins where the one before has ended, corrected by how long a request takes alone.

    Args:
        deployment: The system.
        limits: What bounds a batch.
        objective: The objective.
        costs: A cost function for each set of constants.
        idle: A rate at which requests are alone.
        number: Requests of each run, at least.
        on_run: Called after each service.
    """
    found: list[float] = []
    taken, start = number, None
    for cost in costs:
        search = _Search(deployment, limits, objective, cost, number, on_run)
        rate = search.largest(idle, start=start)
        start = rate * search.alone_seconds or None
        found.append(rate)
        taken = max(taken, search.number)
    return found, taken


@dataclass
class _Search:
    """The search under one set of constants.

    ``number`` becomes what the rate that it finds took, ``alone_seconds`` how long a request takes alone.
    """

    deployment: Deployment
    limits: Limits
    objective: Objective
    cost: Cost
    number: int
    on_run: Callable[[], None]
    alone_seconds: float = 0.0

    def largest(self, idle: float, *, start: float | None) -> float:
        """The largest rate that keeps the objective, 0 if even ``idle`` does not.

        Args:
            idle: A rate at which requests are alone.
            start: About this many requests run at a time at the largest rate; None where nothing is known.
        """
        alone = self._serve(idle, self.number)
        if alone is None:
            return 0.0
        self.alone_seconds = alone.e2e_mean_s
        least, taken, times = self.number, {}, {idle: 1}

        def attainment(rate: float) -> float:
            base = max(least, round(_SPAN * rate * alone.e2e_mean_s))
            doubled = max(factor for slower, factor in times.items() if slower <= rate)  # what slower rates needed
            row = self._serve(rate, doubled * base)
            while row is not None and not _is_steady(row):
                if doubled == _MOST:
                    return 0.0
                doubled *= 2
                row = self._serve(rate, doubled * base)
                if row is not None and not _is_steady(row) and row.waiting_max > _GROWING * doubled * base:
                    return 0.0
            if row is None:
                return 0.0
            taken[rate], times[rate] = doubled * base, doubled
            return row.attainment or 0.0

        factor = 2.0 if start is None else _NEAR
        rate = largest_rate(attainment, (start or 1.0) / alone.e2e_mean_s, first_factor=factor)
        self.number = taken[rate]
        return rate

    def _serve(self, rate: float, number: int) -> ServedRequests | None:
        """Figures of a service; None if fewer than the wanted share meet the objective, which ends it early."""
        requests = poisson_requests(self.deployment, rate, number=number)
        first = int(SETTLED * number)

        def is_lost(sequences: Sequence[Going], now: float) -> bool:
            judged = sequences[first:]
            return (len(judged) - self.objective.missed(judged, now)) / len(judged) < WANTED

        service = run_while(requests, self.limits, self.cost, is_lost=is_lost)
        self.on_run()
        row = None if service is None else measure(service, self.objective, settled=SETTLED)
        return None if row is None or row["attainment"] < WANTED else ServedRequests(requests=number, intervals={}, **row)


def _is_steady(row: ServedRequests) -> bool:
    return bool(_SPAN * row.e2e_mean_s <= row.makespan_s)


def runs_of_curve(deployment: Deployment) -> int:
    """About how many services a curve takes."""
    return runs_of_search(deployment) + len(constant_sets(deployment)) * len(SHARES)


def runs_of_search(deployment: Deployment) -> int:
    """About how many services the search for the largest rates takes."""
    return 6 + 8 * len(constant_sets(deployment))


def _alone_seconds(deployment: Deployment, limits: Limits, cost: Cost) -> float:
    """How long the first request of the workload takes alone."""
    request = poisson_requests(deployment, 1.0, number=1)
    return measure(run_service(request, limits, cost))["e2e_mean_s"]
