from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.compute import compute_times
from smoes_sim.errors import ConfigError, PlacementError
from smoes_sim.placement import ExpertPlacement, home_tokens
from smoes_sim.placement.formats import read_placement, write_placement
from smoes_sim.placement.layout import expert_layout
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.describe import describe
from smoes_sim.prediction.memory_fit import memory
from smoes_sim.traffic import copies
from smoes_sim.traffic.copies import count_traffic


def laid_out(tmp_path, *overrides):
    return deploy(small(tmp_path, "topology.ranks=8", *overrides), whole=True)


def test_the_default_is_one_group_or_one_expert_per_rank():
    assert expert_layout(8, num_ranks=4).num_groups == 1
    assert expert_layout(8, num_ranks=24).ep_size == 8
    # 24 ranks in twos are 12 places: not a multiple of 8; 32 are 16: groups of 8 * 2 ranks
    assert expert_layout(8, num_ranks=24, expert_tensor=2).num_groups == 1
    assert expert_layout(8, num_ranks=32, expert_tensor=2).ep_size == 16


def test_nothing_travels_between_ep_groups(tmp_path):
    deployment = laid_out(tmp_path, "parallelism.expert=4")
    sent = deployment.prefill.traffic.stages[0].sum(axis=0)
    assert sent[:4, 4:].sum() == sent[4:, :4].sum() == 0
    assert sent[:4, :4].sum() > 0
    assert sent[4:, 4:].sum() > 0
    assert memory(deployment).need.weights["experts"] == 3 * 2 * 3 * 512 * 256 * 2  # 8 experts on 4 ranks: two on each


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "1 EP group of 8 ranks, 1 slots per rank"),
        (("parallelism.expert=4",), "2 EP groups of 4 ranks, 2 slots per rank"),
        (("parallelism.expert_tensor=2",), "1 EP group of 8 ranks, every expert on 2 ranks together, 2 slots per rank"),
        (("model.experts=12", "placement.experts=contiguous"), "1 EP group of 8 ranks, 1 or 2 slots per rank"),
        (
            ("model.experts=12", "placement.experts=eplb", "placement.spare=1"),
            "1 EP group of 8 ranks, 2 slots per rank, 16 slots for 12 experts",
        ),
    ],
)
def test_a_prediction_says_which_layout_it_is(tmp_path, overrides, words):
    assert describe(laid_out(tmp_path, *overrides)).expert_layout == words.replace("1 slots", "1 slot")


def test_groups_of_one_rank_send_nothing(tmp_path):
    deployment = laid_out(tmp_path, "parallelism.expert=1")
    assert deployment.prefill.bytes_remote == 0
    assert deployment.prefill.bytes_total > 0


def test_ranks_that_share_experts_all_get_the_token(tmp_path):
    # one token at home on rank 1, with experts 0 and 3 of four on two pairs: ranks 0, 1 and 2, 3
    placement = ExpertPlacement(
        physical_to_logical_map=np.array([[0, 1, 2, 3]]), slot_rank=np.array([0, 0, 2, 2]), expert_tensor=2
    )
    assert (placement.ep_size, placement.slots_per_rank.tolist()) == (4, [2] * 4)
    trace = laid_out(tmp_path).trace.select(np.arange(1))
    trace = type(trace)(
        expert_ids=np.array([[[0, 3]]], dtype=np.int16),
        modality=trace.modality,
        sequence_id=trace.sequence_id,
        phase=trace.phase,
        moe_layers=np.zeros(1, np.int32),
        num_experts=4,
    )
    traffic = count_traffic(trace, placement, np.array([1]), deduplicate="rank")
    assert traffic.stages[0].tolist() == [[[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert traffic.slots.tolist() == [[1, 1, 1, 1]]
    assert traffic.active_experts.tolist() == [[1, 1, 1, 1]]
    assert (traffic.routed, traffic.expert_slots.tolist()) == (2, [[[1, 0, 0, 1]]])
    assert home_tokens("affinity", trace, placement).tolist() == [0]
    assert placement.rank_loads(np.array([[4, 1, 2, 5]])).tolist() == [[5.0, 5.0, 7.0, 7.0]]


@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
@pytest.mark.parametrize("layout", ["parallelism.expert_tensor=2", "placement.experts=eplb"])
def test_the_compiled_count_agrees_where_experts_are_shared_or_copied(tmp_path, monkeypatch, deduplicate, layout):
    overrides = (layout, "placement.spare=1", "placement.experts=bins", "parallelism.expert_tensor=2")
    deployment = laid_out(tmp_path, *overrides, "parallelism.expert=4", f"communication.deduplicate={deduplicate}")
    plain = deployment.prefill.traffic
    monkeypatch.setattr(copies, "pays", lambda size, *, least: True)
    compiled = count_traffic(
        deployment.trace.select(np.flatnonzero(deployment.workload.phase == 0)),
        deployment.placement,
        deployment.home[deployment.workload.phase == 0],
        deduplicate=deduplicate,
        topology=deployment.topology,
    )
    for mine, other in zip(plain.stages, compiled.stages, strict=True):
        assert np.array_equal(mine, other)
    for name in ("slots", "expert_slots", "active_experts"):
        assert np.array_equal(getattr(plain, name), getattr(compiled, name))


LAYOUTS = [
    (),
    ("parallelism.expert=4",),
    ("parallelism.expert=2", "parallelism.tensor=2"),
    ("parallelism.expert_tensor=2",),
    ("parallelism.expert_tensor=8",),
    ("parallelism.expert=4", "parallelism.expert_tensor=4", "parallelism.tensor=4"),
    ("parallelism.tensor=8",),
    ("placement.experts=eplb", "placement.spare=1"),
    ("placement.experts=eplb", "placement.spare=2", "parallelism.expert=4"),
]


@pytest.mark.parametrize("overrides", LAYOUTS)
def test_the_work_of_the_experts_is_the_same_in_every_layout(tmp_path, overrides):
    # 16 sequences of 64 text tokens, 3 MoE layers, top 2: 6,144 routed tokens of 2 * 3 * 512 * 256 FLOP each
    deployment = laid_out(tmp_path, *overrides, "communication.deduplicate=none")
    traffic, layout = deployment.prefill.traffic, deployment.scenario.parallelism
    assert traffic.routed == 6144
    rates = deployment.under({}).rates
    device = rates.device.model_copy(update={"memory_bandwidth": 1e30})
    timed = compute_times(
        deployment.model,
        deployment.prefill.batches[0].load,
        type(rates)(
            **{name: getattr(rates, name) for name in rates.__dataclass_fields__} | {"device": device, "launch": 0.0}
        ),
        tensor=layout.tensor,
        expert_tensor=layout.expert_tensor,
    )
    flops = timed.experts.sum() * device.peak_bf16 * rates.flops_efficiency
    assert flops == pytest.approx(6144 * 2 * 3 * 512 * 256)
    # before deduplication a routed token is one copy to each rank that shares its expert
    assert traffic.local_copies + traffic.remote_copies == 6144 * layout.expert_tensor
    # each of the groups holds every slot once, its parts on the ranks that share it
    placement = deployment.placement
    slots = placement.physical_to_logical_map.shape[1]
    held = memory(deployment).need.weights["experts"]
    assert placement.slots_per_rank.sum() == slots * layout.expert_tensor
    one = 3 * 3 * 512 * 256 * 2 / layout.expert_tensor
    assert held == placement.slots_per_rank.max() * one


DENSE = ("model.dense_layers=4", "model.experts=0", "model.top_k=0", "model.shared_experts=0", "model.expert_ffn=0")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallelism.expert=3"], r"parallelism\.expert = 3 does not divide the 8 ranks"),
        (["parallelism.expert=2", "parallelism.tensor=4"], r"parallelism\.tensor = 4 does not divide the 2 ranks of an EP"),
        (["parallelism.expert=4", "parallelism.expert_tensor=8"], r"expert_tensor = 8 does not divide the 4 ranks"),
        (["parallelism.expert_tensor=3"], r"expert_tensor = 3 does not divide the (8 ranks|inner width)"),
        (["parallelism.expert_tensor=8", "model.expert_ffn=252"], r"does not divide the inner width 252"),
        (["parallelism.expert=4", *DENSE], r"parallelism\.expert = 4: small has no experts\. Leave it out"),
        (["parallelism.tensor=8", "model.experts=4"], r"parallelism\.tensor = 8 does not divide the 4 ranks of an EP group"),
    ],
)
def test_layouts_that_no_engine_has_are_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        laid_out(tmp_path, *overrides)


def test_a_file_describes_one_group_of_any_number(tmp_path):
    one = ExpertPlacement(physical_to_logical_map=np.array([[3, 0, 1, 2]]), slot_rank=np.array([0, 0, 1, 1]))
    write_placement(one, tmp_path / "p.json", moe_layers=[0], num_layers=1)
    read = read_placement(tmp_path / "p.json", moe_layers=[0], num_experts=4, num_ranks=8, ep_size=4, expert_tensor=2)
    assert (read.num_groups, read.slot_rank.tolist()) == (2, [0, 0, 2, 2])
    uneven = ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 2]]), slot_rank=np.array([0, 0, 1]))
    with pytest.raises(PlacementError, match=r"3 slots on 2 ranks are 1 or 2 on each"):
        write_placement(uneven, tmp_path / "u.json", moe_layers=[0], num_layers=1)


def test_experts_of_deepseek_v3_on_72_ranks_with_288_slots(tmp_path):
    scenario = small(
        tmp_path,
        "topology.ranks=72",
        "model=deepseek-v3",
        "compute.weights=fp8",
        "placement.experts=eplb",
        "placement.spare=1",
        "workload.batch=72",
    )
    # 288 / 72 = 4 slots of 3 * 7168 * 2048 parameters in each of 58 layers: 10.2 GB in fp8
    assert memory(deploy(scenario)).need.weights["experts"] == pytest.approx(58 * 4 * 3 * 7168 * 2048, rel=0.01)
