"""The routing of some layers is that of the whole, from the synthetic router and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smoes_sim.prediction import router
from smoes_sim.prediction.router import synthesize_trace, tokens_and_routing
from smoes_sim.scenario import Scenario, load_scenario

SMALL = ["workload={batch: 4, text_tokens: 8, output_tokens: 2}", "calibration=null"]


def routed(scenario: Scenario, layers: list[int] | None = None) -> np.ndarray:
    trace = tokens_and_routing(scenario, scenario.model_shape, 2, layers=layers).trace
    assert trace is not None
    return trace.expert_ids


def test_some_layers_are_those_of_the_whole_with_and_without_a_file(tmp_path: Path) -> None:
    scenario = load_scenario("olmoe-two-orin", SMALL)
    whole = routed(scenario)
    assert np.array_equal(routed(scenario, [3, 11]), whole[:, [3, 11]])
    synthesize_trace(scenario).save(tmp_path / "trace.npz")
    captured = load_scenario("olmoe-two-orin", [*SMALL, f"routing.trace={tmp_path / 'trace.npz'}"])
    assert np.array_equal(routed(captured), whole)
    assert np.array_equal(routed(captured, [3, 11]), whole[:, [3, 11]])


def test_weights_are_made_where_slots_are_skipped_and_where_a_trace_is_asked_for() -> None:
    scenario = load_scenario("olmoe-two-orin", SMALL)
    trace = tokens_and_routing(scenario, scenario.model_shape, 2).trace
    assert trace is not None
    assert trace.expert_weights is None
    assert synthesize_trace(scenario).expert_weights is not None
    skipping = load_scenario("olmoe-two-orin", [*SMALL, "routing.skip={text: 0.25}"])
    ids = routed(skipping)
    assert (ids < 0).sum() == round(0.25 * ids.size)


def test_a_large_routing_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    router._recent.cache_clear()
    scenario = load_scenario("olmoe-two-orin", SMALL)
    monkeypatch.setattr(router, "_KEPT_SLOTS", 10)
    first, second = routed(scenario), routed(scenario)
    assert router._recent.cache_info().currsize == 0
    assert np.array_equal(first, second)
