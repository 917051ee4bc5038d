"""The study of scale: that its sizes grow together, and what its page says of the smallest."""

from __future__ import annotations

import pytest

from smoes_sim.prediction.simulate import simulate
from smoes_sim.sweeps import load_sweep
from smoes_sim.topology import find_spec


def test_every_size_has_one_sequence_a_rank_and_fits_every_network():
    for point in load_sweep("scale-out").points:
        assert point.scenario.workload.batch == point.scenario.ranks
        assert point.scenario.compute.device == "h200-sxm"
    for name in ("h100-rail-128", "h100-fat-128-4to1"):
        assert find_spec(name).nodes * find_spec(name).ranks_per_node == 1024


def test_on_two_ranks_smoes_saves_two_thirds_of_the_bytes_and_does_uneven_work():
    rows = {
        (point.settings["routing.policy"], point.settings["placement.tokens"]): simulate(point.scenario).to_dict()
        for point in load_sweep("scale-out").points
        if point.settings["ranks"] == 2 and point.settings["topology"] == "h100-rail-128"
    }
    standard, smoes = rows["standard", "data_parallel"], rows["smoes", "modality"]
    # one point: the shares of remote tokens are fitted in expectation, and a trace scatters around them
    assert smoes["bytes_remote"] / standard["bytes_remote"] - 1 == pytest.approx(-0.67, abs=0.01)
    assert (standard["imbalance"], smoes["imbalance"]) == (pytest.approx(1.01, abs=0.005), pytest.approx(1.75, abs=0.03))
    assert smoes["tokens_per_s_prefill_per_rank"] < standard["tokens_per_s_prefill_per_rank"]
