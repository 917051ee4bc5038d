"""Ranks that share the cores of one machine, as in a lab: processor sharing.

While ``n`` of them compute on ``c`` cores, each gets ``min(1, c / n)`` of a core. Not counted: time slices of the scheduler
(a few milliseconds), cache misses that ranks cause each other, and the work of the cores for the network.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import simpy
from numpy.typing import NDArray


def shared_finish(work: NDArray[np.float64], *, num_cores: int) -> NDArray[np.float64]:
    """Finish time of each rank if all start together, seconds, shape (R,).

    Args:
        work: Seconds of each rank on a dedicated core, shape (R,).
        num_cores: Number of cores.

    Example:
        1, 1, 2 and 4 s on 2 cores: at half speed until 2 s, then two ranks at full speed:

        >>> shared_finish(np.array([1.0, 1.0, 2.0, 4.0]), num_cores=2).tolist()
        [2.0, 2.0, 3.0, 5.0]
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
        """SimPy process of work that takes ``duration`` seconds on a dedicated core."""
        self._catch_up()
        done = simpy.Event(self._env)
        self._left[done] = duration
        self._schedule_next()
        yield done

    @property
    def _speed(self) -> float:
        return min(1.0, self._num_cores / len(self._left))

    def _catch_up(self) -> None:
        """Subtract the work done since the last change."""
        passed, self._since = self._env.now - self._since, self._env.now
        if self._left:
            done = passed * self._speed
            self._left = {event: left - done for event, left in self._left.items()}

    def _schedule_next(self) -> None:
        """Wake up when the next piece of work ends, unless something changes before."""
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
            self._schedule_next()
