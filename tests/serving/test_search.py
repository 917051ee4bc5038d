from __future__ import annotations

import pytest

from smoes_sim.serving.search import PRECISION, largest_rate


@pytest.mark.parametrize("limit", [0.001, 0.7, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("start", [0.1, 50.0])
@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_the_largest_rate_is_found_from_either_side(limit, start, factor):
    tried = []

    def attainment(rate):
        tried.append(rate)
        return 1.0 if rate <= limit else 0.5

    found = largest_rate(attainment, start, first_factor=factor)
    assert limit / (1 + PRECISION) <= found <= limit
    assert found in tried
    assert len(tried) == len(set(tried)) < 30


def test_ninety_of_a_hundred_are_enough():
    assert largest_rate(lambda rate: 0.9 if rate < 5 else 0.89, 1.0) == pytest.approx(5.0, rel=PRECISION)
