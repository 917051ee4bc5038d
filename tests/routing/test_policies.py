"""What each routing policy lets a token choose, against slow references and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.placement import home_tokens, place_experts
from smoes_sim.routing import RouterParameters, SyntheticRouter, Tokens, expert_counts, modality_specialisation, published
from smoes_sim.routing.trace import save_trace
from smoes_sim.traffic.copies import count_traffic, transmission_rate

EVEN = RouterParameters(popularity=0.0)
NEW = ("hybrid", "device_limited", "group_balanced")


def tokens_of(vision, text):
    total = vision + text
    return Tokens(
        modality=np.repeat(np.array([1, 0], np.uint8), [vision, text]),
        sequence_id=(np.arange(total) % 4).astype(np.int32),
        phase=np.zeros(total, np.uint8),
    )


def router_of(policy, *, experts=16, top_k=4, layers=3, seed=0, groups=4, keep=2):
    return SyntheticRouter(
        policy=policy,
        num_experts=experts,
        top_k=top_k,
        num_layers=layers,
        seed=seed,
        num_groups=groups,
        kept_groups=keep,
    )


def placed(trace, rule, num_ranks):
    return place_experts(rule, trace, num_ranks=num_ranks, rng=np.random.default_rng(0))


@pytest.mark.parametrize("policy", NEW)
def test_the_same_seed_makes_the_same_bytes(policy, tmp_path):
    tokens, content = tokens_of(30, 10), []
    for number, seed in enumerate((7, 7, 8)):
        path = tmp_path / f"{number}.npz"
        save_trace(router_of(policy, seed=seed).route(tokens, RouterParameters(preference=0.5)), path)
        content.append(path.read_bytes())
    assert content[0] == content[1] != content[2]


@pytest.mark.parametrize("policy", NEW)
def test_slots_are_distinct_experts_by_falling_weight(policy):
    trace = router_of(policy).route(tokens_of(40, 20), RouterParameters(preference=0.5))
    ordered = np.sort(trace.expert_ids, axis=2)
    assert (ordered[:, :, 1:] > ordered[:, :, :-1]).all()
    assert (ordered >= 0).all()
    assert (np.diff(trace.expert_weights.astype(np.float64), axis=2) <= 0).all()


def test_device_limited_with_a_group_a_rank_never_visits_more_ranks_than_it_keeps():
    trace = router_of("device_limited", experts=64, top_k=8, groups=8, keep=3).route(tokens_of(200, 100), RouterParameters())
    visited = np.array([[len(set(row)) for row in token] for token in (trace.expert_ids // 8).tolist()])
    assert visited.max() == 3
    plain = router_of("standard", experts=64, top_k=8).route(tokens_of(200, 100), RouterParameters())
    assert np.mean([[len(set(row)) for row in token] for token in (plain.expert_ids // 8).tolist()]) > 5


def test_without_a_limit_device_limited_is_the_standard_router():
    tokens, parameters = tokens_of(50, 50), RouterParameters(preference=0.5, slot_correlation=(1, 1, 1))
    free = router_of("device_limited", keep=4).route(tokens, parameters)
    assert np.array_equal(free.expert_ids, router_of("standard").route(tokens, parameters).expert_ids)


def test_group_balanced_loads_are_equal_by_construction_however_popular_single_experts_are():
    tokens = tokens_of(90, 31)
    trace = router_of("group_balanced").route(tokens, RouterParameters(popularity=3.0, preference=2.0))
    assert (np.sort(trace.expert_ids // 4, axis=2) == np.arange(4)).all()
    placement = placed(trace, "contiguous", 4)
    traffic = count_traffic(trace, placement, home_tokens("data_parallel", trace, placement), deduplicate="rank")
    assert (traffic.slots == 121).all()
    assert traffic.imbalance() == 1.0


def test_hybrid_has_half_text_a_quarter_vision_a_quarter_shared_and_never_crosses():
    router, tokens = router_of("hybrid", experts=64, top_k=8, layers=4), tokens_of(300, 200)
    assert [int((router.side == side).sum()) for side in (1, -1, 0)] == [4 * 32, 4 * 16, 4 * 16]
    assert len({tuple(row) for row in router.side.tolist()}) == 4
    side = router.side[np.arange(4)[None, :, None], router.route(tokens, RouterParameters(popularity=2.0)).expert_ids]
    assert set(np.unique(side[:300])) == {-1, 0}
    assert set(np.unique(side[300:])) == {0, 1}


def test_hybrid_shows_the_published_index():
    # shared experts take 16 of 48 text slots and 16 of 32 vision slots: share (1/3) / (1/3 + 1/2) = 0.4, index 0.2;
    # (48 * 1 + 16 * 0.2) / 64 = 0.8, the figure given for MoIIE t32-v16-s16 (notes, section 3)
    trace = router_of("hybrid", experts=64, top_k=8).route(tokens_of(3000, 3000), EVEN)
    assert modality_specialisation(trace).mean() == pytest.approx(0.8, abs=0.01)
    assert published()["hybrid"].msi == 0.8


def test_bins_put_the_shared_experts_between_vision_and_text():
    router = router_of("hybrid", experts=64, top_k=8)
    trace = router.route(tokens_of(600, 600), EVEN)
    order = placed(trace, "bins", 4).physical_to_logical_map
    side = np.take_along_axis(router.side, order, axis=1).reshape(3, 4, 16)
    assert [set(np.unique(side[:, rank])) for rank in range(4)] == [{-1}, {0}, {1}, {1}]


def test_hybrid_on_two_ranks_keeps_vision_at_home_and_sends_nearly_all_text():
    # 32 experts each: vision's and the shared ones on rank 0, text's on rank 1. A text token at home on rank 1 needs rank 0
    # unless all 8 of its 48 are text's: 1 - C(32, 8) / C(48, 8) = 97.2%
    trace = router_of("hybrid", experts=64, top_k=8, layers=8).route(tokens_of(1500, 1500), EVEN)
    placement = placed(trace, "bins", 2)
    rates = transmission_rate(trace, placement, home_tokens("modality", trace, placement))
    exact = 1 - math.comb(32, 8) / math.comb(48, 8)
    assert exact == pytest.approx(0.972, abs=5e-4)
    assert rates.prefill_vision == 0
    assert rates.prefill_text == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 12000))


def test_hard_and_hybrid_use_every_expert_of_theirs():
    for policy in ("hard", "hybrid"):
        assert (expert_counts(router_of(policy).route(tokens_of(400, 400), EVEN)) > 0).all()


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        ("standard", {"experts": 5, "top_k": 1}, r"5 experts do not divide by 2, as policy standard needs"),
        ("hybrid", {"experts": 6, "top_k": 1}, r"6 experts do not divide by 4, as policy hybrid needs"),
        ("hard", {"experts": 8, "top_k": 5}, r"policy hard leaves a token 4 experts, fewer than top_k = 5"),
        ("hybrid", {"experts": 8, "top_k": 5}, r"policy hybrid leaves a token 4 experts, fewer than top_k = 5"),
        ("device_limited", {"groups": 3}, r"routing\.groups = 3 does not divide 16 experts\. Use 1, 2, 4, 8, 16\."),
        (
            "device_limited",
            {"groups": 8, "keep": 1},
            r"routing\.keep = 1 of 8 groups of 2 experts cannot hold top_k = 4\. Keep 2 to 8",
        ),
        ("group_balanced", {"groups": 8}, r"routing\.groups = 8 does not divide top_k = 4, .* Use 1, 2, 4\."),
    ],
)
def test_a_policy_that_cannot_choose_is_refused_with_what_could(policy, changes, message):
    with pytest.raises(ConfigError, match=message):
        router_of(policy, **changes)
