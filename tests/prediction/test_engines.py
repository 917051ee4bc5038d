"""The engines agree on whole scenarios; ``python -m benchmarks.engines`` does the same with larger ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.prediction.simulate import simulate
from smoes_sim.prediction.times import all_times

SCENARIOS = st.fixed_dictionaries(
    {
        "topology.ranks": st.sampled_from([2, 4, 8]),
        "topology.link.bandwidth": st.sampled_from(["1 GB/s", "25 GB/s"]),
        "communication.per_exchange": st.sampled_from(["0 us", "20 us"]),
        "workload.spread": st.sampled_from([0, 0.5]),
        "routing.popularity": st.sampled_from([0.1, 1.0]),
        "placement.tokens": st.sampled_from(["data_parallel", "sharded", "affinity"]),
        "overlap": st.sampled_from(["none", "shared_expert"]),
    }
)


def times(scenario):
    """Seconds of prefill and of a decode step, by the engine of the scenario, under the middle constants."""
    deployment = deploy(scenario)
    sets = [deployment.under(constants) for constants in constant_sets(deployment)]
    found = all_times(deployment, sets)[len(sets) // 2]
    return found.prefill, found.decode


def on_simpy(scenario):
    """The same, every step on SimPy's clock."""
    deployment = deploy(scenario)
    sets = constant_sets(deployment)
    conditions = deployment.under(sets[len(sets) // 2])
    decode = [conditions.time(step).duration for step in deployment.decode]
    return conditions.time(deployment.prefill).duration, sum(decode) / len(decode)


@settings(max_examples=8, deadline=None)
@given(chosen=SCENARIOS)
def test_every_engine_finds_the_times_of_simpy(tmp_path_factory, chosen):
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    folder = tmp_path_factory.mktemp("scenario")
    exact = small(folder, *overrides, "engine=exact", "communication.tolerance=0")
    prefill, decode = on_simpy(exact)
    for engine, within in (("exact", 1e-9), ("auto", 1e-9), ("fast", 0.05)):
        found = times(exact.model_copy(update={"engine": engine}))
        assert [one.step_s for one in found] == pytest.approx([prefill, decode], rel=within), engine


def test_the_output_names_the_engine_and_what_it_left_out(tmp_path):
    prediction = simulate(small(tmp_path, "engine=exact"))
    assert (prediction.engine, prediction.engine_error) == ("exact", 0.0)
    fast = simulate(small(tmp_path, "engine=fast"))
    assert fast.engine == "fast"
    assert 0 <= fast.engine_error < 0.05
    assert "% from the exact one" in repr(fast) or "exact here" in repr(fast)


def test_the_fast_engine_says_what_it_cannot_time(tmp_path):
    with pytest.raises(ConfigError, match=r"engine = fast cannot .* two_batch.*Write engine: auto"):
        simulate(small(tmp_path, "engine=fast", "overlap=two_batch"))


def test_a_sample_of_the_layers_is_near_all_of_them(tmp_path):
    # 40 MoE layers on 32 ranks: 10 are simulated; the interval holds what the sample may be off
    many = ["model.layers=41", "topology.ranks=32", "model.experts=32", "workload.batch=64", "workload.output_tokens=2"]
    part = simulate(small(tmp_path, *many))
    whole = simulate(small(tmp_path, *many, "sampling=none"))
    assert (part.layers_simulated, part.layers, whole.layers_simulated) == (10, 40, 40)
    assert part.step_s == pytest.approx(whole.step_s, rel=0.01)
    assert part.ep_comm_s == pytest.approx(whole.ep_comm_s, rel=0.001)
    assert part.bytes_remote == whole.bytes_remote
    low, high = part.interval("ep_exposed_s")
    assert low < part.ep_exposed_s < high
