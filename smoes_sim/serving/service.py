"""Steps one after the other, while requests arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.serving.batching import BLOCK, Group, Limits, StepPlan
from smoes_sim.serving.batching import Sequence as Going
from smoes_sim.serving.requests import Request
from smoes_sim.serving.step_cost import StepBatch

Cost = Callable[[StepBatch], float]
_STEPS_BETWEEN = 64
"""Fewest steps between two questions whether the service may end; with many requests one for every eighth of them."""
_WAITING_WEIGHS = 4
"""Weight of a waiting sequence when a group is chosen (vLLM's balancer: 4 * waiting + running)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The record of a service; N requests in the order of their arrival.

    Attributes:
        arrival: Seconds, float64 [N].
        first_token: Seconds when the first token was there, float64 [N].
        finish: Seconds when the last token was there, float64 [N].
        prompt_tokens: int64 [N].
        output_tokens: int64 [N].
        steps: Steps taken.
        busy: Seconds during which a step ran.
        preemptions: How often a sequence lost its cache.
        waiting: Waiting requests, mean over time from the first arrival to the last finish.
        most_waiting: Largest number of them.
        running: Running requests, mean over time.
        cache_use: Share of the cache's blocks in use, mean over time.
        most_cache_use: Largest share.
    """

    arrival: NDArray[np.float64]
    first_token: NDArray[np.float64]
    finish: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    steps: int
    busy: float
    preemptions: int
    waiting: float
    most_waiting: int
    running: float
    cache_use: float
    most_cache_use: float

    @property
    def makespan(self) -> float:
        """Seconds from the first arrival to the last finish."""
        return float(self.finish.max() - self.arrival[0])


def run_service(requests: Sequence[Request], limits: Limits, cost: Cost) -> Service:
    """Serve requests until the last is answered.

    An arriving request joins the attention group with the smallest 4 * waiting + running. All groups take their steps
    together, as dispatch and combine join their ranks; whoever arrives during a step, or as it ends, waits for the next.
    Between steps no time passes: what the engine's host does counts only if ``cost`` contains it.

    Args:
        requests: In the order of their arrival.
        limits: What bounds a batch.
        cost: Seconds of a step.

    Raises:
        ConfigError: If a request can never fit into the cache of a group.

    Example:
        Steps of 1 s, two requests of one output token at 0 s and 0.5 s: first tokens at 1 s and 2 s.
    """
    service = run_while(requests, limits, cost)
    assert service is not None  # nothing ends it before
    return service


def run_while(
    requests: Sequence[Request],
    limits: Limits,
    cost: Cost,
    *,
    is_lost: Callable[[Sequence[Going], float], bool] | None = None,
) -> Service | None:
    """As :func:`run_service`, but None as soon as nobody needs to know how it goes on.

    Args:
        requests: In the order of their arrival.
        limits: What bounds a batch.
        cost: Seconds of a step.
        is_lost: Asked now and then with all sequences and the seconds on the clock; once it is true, the service ends.
    """
    room = limits.cache_blocks * BLOCK
    for request in requests:
        if request.prompt_tokens + request.output_tokens - 1 > room:
            raise ConfigError(
                f"a request of {request.prompt_tokens} + {request.output_tokens} tokens: the KV cache of an attention group "
                f"holds {room}. Use shorter requests, more ranks, or a smaller --max-batch-tokens."
            )
    return _Run(requests, limits, cost).result(is_lost)


class _Watch:
    """Means over time and maxima of waiting and running sequences and blocks in use."""

    def __init__(self, start: float) -> None:
        self._last = start
        self._now = (0, 0, 0)
        self._areas = [0.0, 0.0, 0.0]
        self.most = [0, 0, 0]

    def note(self, moment: float, waiting: int, running: int, blocks: int) -> None:
        """Record the numbers that hold from this moment on."""
        now = (waiting, running, blocks)
        if now == self._now:
            return
        duration = moment - self._last
        for place, count in enumerate(now):
            self._areas[place] += self._now[place] * duration
            self.most[place] = max(self.most[place], count)
        self._last, self._now = moment, now

    def means(self, duration: float) -> list[float]:
        """Mean of each over a duration, at whose end all are zero."""
        return [area / duration for area in self._areas]


class _Run:
    def __init__(self, requests: Sequence[Request], limits: Limits, cost: Cost) -> None:
        self.limits, self.cost = limits, cost
        self.going = [Going(request) for request in requests]
        self.groups = [Group(limits) for _ in range(limits.groups)]
        self.watch = _Watch(requests[0].arrival)
        self.steps, self.busy = 0, 0.0
        self.now = requests[0].arrival
        self.arrived = 0

    def result(self, is_lost: Callable[[Sequence[Going], float], bool] | None) -> Service | None:
        """Run until every request is answered; None if it was lost before."""
        left, asked = len(self.going), 0
        between = max(_STEPS_BETWEEN, left // 8)
        while left:
            if is_lost is not None and self.steps >= asked + between:
                asked = self.steps
                if is_lost(self.going, self.now):
                    return None
            plans = [group.plan() for group in self.groups]
            if any(plans):
                self._note()
                steps = self._take_steps(plans)
                pairs = zip(self.groups, plans, strict=True)
                left -= sum(group.complete(plan, self.now, steps=steps) for group, plan in pairs)
                self._note()
            else:
                self._pass(self.going[self.arrived].request.arrival)
        return self._record()

    def _record(self) -> Service:
        requests = [sequence.request for sequence in self.going]
        blocks = self.limits.groups * self.limits.cache_blocks
        waiting, running, used = self.watch.means(self.now - requests[0].arrival)
        return Service(
            arrival=np.array([request.arrival for request in requests]),
            first_token=np.array([sequence.first_token for sequence in self.going]),
            finish=np.array([sequence.finish for sequence in self.going]),
            prompt_tokens=np.array([request.prompt_tokens for request in requests]),
            output_tokens=np.array([request.output_tokens for request in requests]),
            steps=self.steps,
            busy=self.busy,
            preemptions=sum(group.preemptions for group in self.groups),
            waiting=waiting,
            most_waiting=self.watch.most[0],
            running=running,
            cache_use=used / blocks,
            most_cache_use=self.watch.most[2] / blocks,
        )

    def _take_steps(self, plans: Sequence[StepPlan]) -> int:
        """Let a step pass, and those that repeat it until a request arrives; returns their number."""
        batch = _batch_of(plans)
        can_repeat = not batch.prefill  # else some group cannot
        repeats = min(map(Group.repeats, self.groups, plans)) if can_repeat else 0
        opened = 0
        opens = Counter(-context % BLOCK for context in batch.decode) if repeats else {}
        for step in range(repeats + 1):
            if step:
                batch = replace(batch, decode=[context + 1 for context in batch.decode])
                if number := opens[(step - 1) % BLOCK]:
                    opened += number
                    self._note(opened)
            duration = self.cost(batch)
            self.steps += 1
            self.busy += duration
            if self._pass(self.now + duration, opened):
                break
        return step + 1

    def _pass(self, end: float, opened: int = 0) -> bool:
        """Let time pass; whether requests have arrived, each of which joins a group.

        Args:
            end: Seconds on the clock.
            opened: Blocks that repeated steps have taken and groups do not know of.
        """
        before = self.arrived
        while self.arrived < len(self.going) and (moment := self.going[self.arrived].request.arrival) <= end:
            while self.arrived < len(self.going) and self.going[self.arrived].request.arrival == moment:
                group = min(self.groups, key=lambda group: _WAITING_WEIGHS * len(group.waiting) + len(group.running))
                group.waiting.append(self.going[self.arrived])
                self.arrived += 1
            self.now = moment
            self._note(opened)
        self.now = end
        return self.arrived > before

    def _note(self, opened: int = 0) -> None:
        groups = self.groups
        free = sum([group.free for group in groups])
        self.watch.note(
            self.now,
            sum([len(group.waiting) for group in groups]),
            sum([len(group.running) for group in groups]),
            len(groups) * self.limits.cache_blocks - free + opened,
        )


def _batch_of(plans: Sequence[StepPlan]) -> StepBatch:
    """What all groups compute together."""
    prefill, decode, images = [], [], 0
    for plan in plans:
        for going, number in plan:
            if going.generated > 0 and going.known - going.computed == 1:
                decode.append(going.known)
            else:
                prefill.append((number, going.computed))
                images += 0 if going.is_encoded else going.request.images
    return StepBatch(prefill=prefill, decode=decode, images=images)
