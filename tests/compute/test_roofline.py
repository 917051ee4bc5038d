from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.compute import find_device, roofline_time
from smoes_sim.errors import ConfigError

A100 = find_device("a100-sxm4-80gb")  # 312e12 operations/s, 2.039e12 bytes/s


def time(flops, bytes_moved, **changes):
    arguments = {"device": A100, "flops_efficiency": 0.5, "memory_efficiency": 0.5, "launch": 5e-6} | changes
    return roofline_time(flops=flops, bytes_moved=bytes_moved, **arguments)


def test_the_slower_of_arithmetic_and_memory_counts_and_the_launch_is_added():
    # 312e9 / 156e12 = 2 ms; 2.039e9 / 1.0195e12 = 2 ms
    assert time(312e9, 2.039e9) == pytest.approx(2.005e-3)
    assert time(312e9, 0.0) == pytest.approx(2.005e-3)
    assert time(312e9, 4.078e9) == pytest.approx(4.005e-3)
    assert time(936e9, 2.039e9) == pytest.approx(6.005e-3)


def test_no_work_takes_no_time_and_is_not_launched():
    assert time([0.0, 312e9], [0.0, 0.0]).tolist() == pytest.approx([0.0, 2.005e-3])


def test_arrays_broadcast():
    times = time(np.array([[0.0], [312e9]]), np.array([0.0, 2.039e9, 4.078e9]))
    assert times == pytest.approx(np.array([[0.0, 2.005e-3, 4.005e-3], [2.005e-3, 2.005e-3, 4.005e-3]]))


def test_fp8_uses_its_own_peak():
    h100 = find_device("h100-sxm")
    bf16 = time(1e12, 0.0, device=h100, launch=0.0)
    assert time(1e12, 0.0, device=h100, launch=0.0, precision="fp8") == pytest.approx(bf16 / 2, rel=1e-4)


def test_doubling_work_and_halving_efficiency_are_the_same():
    assert time(2e12, 2e9, launch=0.0) == pytest.approx(
        time(1e12, 1e9, launch=0.0, flops_efficiency=0.25, memory_efficiency=0.25)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flops_efficiency": 0.0}, r"flops_efficiency = 0.0: must lie in \(0, 1\]"),
        ({"memory_efficiency": 1.5}, r"memory_efficiency = 1.5: must lie in \(0, 1\]"),
        ({"memory_efficiency": float("nan")}, r"memory_efficiency = nan"),
        ({"launch": -1e-6}, r"launch = -1e-06: must be >= 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        time(1e9, 1e9, **changes)


def test_negative_work_is_refused():
    with pytest.raises(ConfigError, match="flops and bytes_moved: must be >= 0 everywhere"):
        time([1.0, -1.0], [0.0, 0.0])
