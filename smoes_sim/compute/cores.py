"""Ranks that compute in turns on the cores of one machine, as in a lab: processor sharing.

While ``n`` of them compute on ``c`` cores each gets ``min(1, c / n)`` of a core. What is left out: the scheduler's slices (a
few milliseconds), caches that ranks push each other out of, and the cores' work for the network itself.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import simpy
from numpy.typing import NDArray


def shared_finish(work: NDArray[np.float64], *, num_cores: int) -> NDArray[np.float64]:
    """When each rank is done if all begin at once, seconds, (R,).

    Args:
        work: Seconds on a core of its own, (R,).
        num_cores: Cores.

    Example:
        1, 1, 2 and 4 s on 2 cores: at half speed until 2 s, then two ranks at full speed: 2, 2, 3 and 5 s.
    """
    order = np.argsort(work, kind="stable")
    running = np.arange(len(work), 0, -1)
    slowness = np.maximum(1.0, running / num_cores)
    finish = np.empty(len(work))
    finish[order] = np.cumsum(np.diff(work[order], prepend=0.0) * slowness)
    return finish


class Cores:
    """Cores on SimPy's clock."""

    def __init__(self, env: simpy.Environment, num_cores: int) -> None:
        self._env, self._num_cores = env, num_cores
        self._left: dict[simpy.Event, float] = {}
        self._since = 0.0
        self._generation = 0

    def work(self, duration: float) -> Generator[simpy.Event, None, None]:
        """Compute what takes ``duration`` seconds on a core of its own."""
        self._catch_up()
        done = simpy.Event(self._env)
        self._left[done] = duration
        self._plan()
        yield done

    @property
    def _speed(self) -> float:
        return min(1.0, self._num_cores / len(self._left))

    def _catch_up(self) -> None:
        """Bring all work to the present."""
        passed, self._since = self._env.now - self._since, self._env.now
        if self._left:
            done = passed * self._speed
            self._left = {event: left - done for event, left in self._left.items()}

    def _plan(self) -> None:
        """Wake when the next piece of work is done, unless something changes before."""
        self._generation += 1
        if self._left:
            next_event = min(self._left, key=self._left.__getitem__)
            self._env.process(self._wait(next_event, max(self._left[next_event], 0.0) / self._speed, self._generation))

    def _wait(self, event: simpy.Event, delay: float, generation: int) -> Generator[simpy.Event, None, None]:
        yield self._env.timeout(delay)
        if generation == self._generation:
            self._catch_up()
            del self._left[event]
            event.succeed()
            self._plan()
