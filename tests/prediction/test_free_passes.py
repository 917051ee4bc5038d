from __future__ import annotations

import pytest
from small_scenario import small

from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.engine import at_no_cost
from smoes_sim.prediction.phase import phase_times

SCHEDULES = ["two_hop", "hierarchical", "pairwise", "all_to_all_single", "direct", "low_latency"]


@pytest.mark.parametrize(
    ("schedule", "rendezvous"),
    [*((schedule, "false") for schedule in SCHEDULES), *((schedule, "true") for schedule in SCHEDULES[:-1])],
)
def test_a_pass_at_no_cost_waits_as_on_simpy(tmp_path, schedule, rendezvous):
    two_nodes = (
        "topology={kind: two_level, nodes: 2, ranks_per_node: 2, "
        "scale_up: {kind: nvlink4, bandwidth: 450 GB/s, latency: 1 us}, "
        "nic: {kind: infiniband, per: rank, bandwidth: 50 GB/s, latency: 2 us}, fabric: {oversubscription: 1}}"
    )
    scenario = small(
        tmp_path,
        two_nodes,
        f"communication.library={schedule}",
        f"communication.deduplicate={'none' if schedule == 'low_latency' else 'rank'}",
        f"communication.rendezvous={rendezvous}",
        "workload.batch=5",
        "workload.spread=0.8",
    )
    deployment = deploy(scenario)
    conditions = deployment.under({})
    step = deployment.prefill
    (found,) = phase_times([conditions], [step], number=1)
    free = conditions.time(at_no_cost(step), expert_network=conditions.network.at_no_cost()).duration
    assert found.step_s - found.ep_exposed_s == pytest.approx(free, rel=1e-9)
