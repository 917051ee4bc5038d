"""Ranks in turns on the cores of one machine."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from smoes_sim.compute.cores import Cores, shared_finish


def test_ranks_get_equal_shares_until_there_is_a_core_for_each() -> None:
    finish = shared_finish(np.array([2.0, 1.0, 4.0, 1.0]), num_cores=2)
    assert finish.tolist() == [3.0, 2.0, 5.0, 2.0]


def test_with_a_core_for_each_work_takes_its_own_time() -> None:
    assert shared_finish(np.array([2.0, 1.0]), num_cores=2).tolist() == [2.0, 1.0]


def played(begins: list[float], work: list[float], num_cores: int) -> list[float]:
    """When each piece of work is done on SimPy's clock."""
    env = simpy.Environment()
    cores = Cores(env, num_cores)
    done = [0.0] * len(work)

    def rank(number: int):
        yield env.timeout(begins[number])
        yield from cores.work(work[number])
        done[number] = env.now

    for number in range(len(work)):
        env.process(rank(number))
    env.run()
    return done


def test_who_comes_later_slows_the_others_from_then_on() -> None:
    # alone for 1 s, then half a core each: 1 s of work left takes 2 s, and the other has 1 s left then
    assert played([0.0, 1.0], [2.0, 2.0], 1) == [3.0, 4.0]


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=6), st.integers(1, 4))
def test_the_clock_agrees_with_the_closed_form(work: list[float], num_cores: int) -> None:
    finish = shared_finish(np.array(work), num_cores=num_cores)
    assert played([0.0] * len(work), work, num_cores) == pytest.approx(finish.tolist(), abs=1e-9)
