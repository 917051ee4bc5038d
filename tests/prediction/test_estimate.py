from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.prediction.estimate import Estimate, ratio_total
from smoes_sim.prediction.sampling import evenly_spaced


def test_a_whole_population_is_summed_without_error():
    assert ratio_total([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], all_controls=3.0, number=3) == Estimate(7.0, 0.0)


def test_values_proportional_to_their_controls_have_no_error():
    # 3 of 6 layers, each 1.5 times its control
    found = ratio_total([1.5, 3.0, 4.5], [1.0, 2.0, 3.0], all_controls=20.0, number=6)
    assert found.value == pytest.approx(30.0)
    assert found.error == pytest.approx(0.0, abs=1e-12)


def test_the_standard_error_is_that_of_repeated_samples():
    rng = np.random.default_rng(0)
    controls = rng.uniform(1, 2, 60)
    values = controls * rng.normal(1.2, 0.1, 60)
    found = []
    for _ in range(2000):
        chosen = rng.choice(60, 8, replace=False)
        found.append(ratio_total(values[chosen], controls[chosen], all_controls=controls.sum(), number=60))
    totals = np.array([one.value for one in found])
    # the ratio estimator has a bias of order 1 / n, far below its error here
    assert totals.mean() == pytest.approx(values.sum(), rel=0.005)
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(totals.std(), rel=0.1)


def test_without_controls_the_mean_is_extrapolated():
    assert ratio_total([2.0, 4.0], [0.0, 0.0], all_controls=0.0, number=10).value == pytest.approx(30.0)


def test_a_sample_is_evenly_spaced_around_the_middle():
    assert evenly_spaced(94, 6).tolist() == [7, 23, 39, 54, 70, 86]
    assert evenly_spaced(94, 6).mean() == pytest.approx(93 / 2, abs=0.5)
