from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.routing import RouterParameters, SyntheticRouter, Tokens, expert_counts, gini, save_trace, synthetic

NO_PULL = RouterParameters(popularity=0.0)


def tokens_of(vision, text, decode=0, sequences=2):
    """Prefill vision, prefill text, decode text; sequences dealt out."""
    total = vision + text + decode
    return Tokens(
        modality=np.repeat(np.array([1, 0], np.uint8), [vision, text + decode]),
        sequence_id=(np.arange(total) % sequences).astype(np.int32),
        phase=np.repeat(np.array([0, 1], np.uint8), [vision + text, decode]),
    )


def router_of(policy="standard", *, experts=16, top_k=3, layers=4, seed=0):
    return SyntheticRouter(policy=policy, num_experts=experts, top_k=top_k, num_layers=layers, seed=seed)


def content(trace, path):
    save_trace(trace, path)
    return path.read_bytes()


@pytest.mark.parametrize("policy", ["standard", "smoes", "hard"])
def test_the_same_seed_makes_the_same_bytes_and_another_seed_does_not(policy, tmp_path):
    tokens = tokens_of(30, 10, 5)
    parameters = RouterParameters(affinity=(-2, 1, 2), slot_correlation=(1, 1, 1), preference=0.5)
    first, again, other = (
        content(router_of(policy, seed=seed).route(tokens, parameters), tmp_path / f"{number}.npz")
        for number, seed in enumerate((7, 7, 8))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("policy", ["standard", "smoes", "hard"])
def test_slots_of_a_token_are_distinct_experts_and_weights_fall_and_sum_to_one(policy):
    trace = router_of(policy).route(tokens_of(40, 20, 10), RouterParameters(affinity=(-1, 1, 1)))
    ordered = np.sort(trace.expert_ids, axis=2)
    assert (ordered[:, :, 1:] > ordered[:, :, :-1]).all()
    assert (ordered >= 0).all()
    assert (ordered < 16).all()
    weights = trace.expert_weights.astype(np.float64)
    assert (np.diff(weights, axis=2) <= 0).all()
    assert weights.sum(axis=2) == pytest.approx(1, abs=3e-3)  # float16 has 11 bits


def test_how_many_tokens_are_routed_at_a_time_changes_no_byte(monkeypatch, tmp_path):
    tokens, parameters = tokens_of(60, 30, 11), RouterParameters(affinity=(-2, 1, 2), slot_correlation=(1, 1, 1))
    contents = set()
    for block in (1000, 7, 3):
        monkeypatch.setattr(synthetic, "_BLOCK", block)
        contents.add(content(router_of("hard", experts=10).route(tokens, parameters), tmp_path / "trace.npz"))
    assert len(contents) == 1


def test_hard_routing_never_leaves_the_side_of_the_modality():
    router = router_of("hard", layers=6)
    tokens = tokens_of(50, 30, 20)
    trace = router.route(tokens, RouterParameters(popularity=2.0))
    layer = np.arange(6)[None, :, None]
    on_text_side = router.side[layer, trace.expert_ids] > 0
    assert (on_text_side == (tokens.modality == 0)[:, None, None]).all()


def test_sides_are_halves_of_the_ids_for_standard_and_of_shuffled_ids_for_smoes():
    assert router_of("standard", experts=6).side.tolist() == [[-1, -1, -1, 1, 1, 1]] * 4
    side = router_of("smoes", experts=64).side
    assert (side.sum(axis=1) == 0).all()
    assert len({tuple(row) for row in side.tolist()}) == 4  # a random half of its own in each layer


# without pull and popularity every set of K experts is equally likely, and home holds E / D of them:
# P(any remote) = 1 - C(E/D, K) / C(E, K), distinct devices = D (1 - C(E - E/D, K) / C(E, K)); notes, 5.2
UNIFORM = [
    (64, 8, 2, 0.9976, 2.00),
    (64, 8, 4, 1.0000, 3.66),
    (64, 8, 8, 1.0000, 5.43),
    (64, 6, 2, 0.9879, 1.98),
    (128, 8, 8, 1.0000, 5.34),
    (8, 2, 2, 0.7857, 1.57),
    (8, 2, 4, 0.9643, 1.86),
    (16, 1, 4, 0.7500, 1.00),
]


@pytest.mark.parametrize(("experts", "top_k", "devices", "rate", "distinct"), UNIFORM)
def test_without_pull_and_popularity_transmission_is_hypergeometric(experts, top_k, devices, rate, distinct):
    each = experts // devices
    exact = 1 - math.comb(each, top_k) / math.comb(experts, top_k)
    exact_distinct = devices * (1 - math.comb(experts - each, top_k) / math.comb(experts, top_k))
    assert exact == pytest.approx(rate, abs=5e-5)
    assert exact_distinct == pytest.approx(distinct, abs=5e-3)

    router = router_of(experts=experts, top_k=top_k, layers=8, seed=1)
    trace = router.route(tokens_of(1500, 500), NO_PULL)
    device = trace.expert_ids // each
    remote = (device != (np.arange(2000) % devices)[:, None, None]).any(axis=2)
    # 16 000 independent draws: 5 standard errors, and two draws where hardly any is expected (more: 2e-5)
    assert remote.mean() == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 16000) + 2 / 16000)
    found = np.mean([[len(set(row)) for row in token] for token in device.tolist()])
    assert found == pytest.approx(exact_distinct, abs=5 * top_k / 2 / math.sqrt(16000))


def test_popularity_makes_the_load_unequal():
    tokens = tokens_of(500, 200)
    spreads = [
        np.mean([gini(load) for load in expert_counts(router_of().route(tokens, replace(NO_PULL, popularity=p)))])
        for p in (0.0, 0.5, 2.0)
    ]
    assert spreads[0] < 0.06 < spreads[1] < spreads[2]  # sampling alone: 0.56 * sqrt(1 / 131 tokens an expert) = 0.05
    assert spreads[2] > 0.4


def test_affinity_moves_each_population_to_its_side_on_its_own():
    router, tokens = router_of("smoes", layers=3), tokens_of(300, 300, 300)
    trace = router.route(tokens, replace(NO_PULL, affinity=(-6.0, 0.0, 6.0)))
    text_side = (router.side[np.arange(3)[None, :, None], trace.expert_ids] > 0).mean(axis=(1, 2))
    assert text_side[:300].mean() < 0.05
    assert text_side[300:600].mean() == pytest.approx(0.5, abs=0.05)
    assert text_side[600:].mean() > 0.95


def test_depth_falls_linearly_around_one():
    assert router_of(layers=3).depth(0.5).tolist() == [1.25, 1.0, 0.75]
    assert router_of(layers=1).depth(0.5).tolist() == [1.0]
    router, tokens = router_of(layers=3), tokens_of(1, 1)
    pull = router.pull(tokens, RouterParameters(affinity=(-4.0, 2.0, 0.0)))
    assert pull.tolist() == [[-5.0, -4.0, -3.0], [2.5, 2.0, 1.5]]


def test_the_shared_pull_is_standard_normal_and_correlated_between_neighbouring_layers():
    pull = router_of(layers=3).shared_pull(tokens_of(20000, 0), 0.5)
    # standard errors: 1 / sqrt(20000) = 0.007
    assert pull.mean(axis=0) == pytest.approx([0, 0, 0], abs=0.03)
    assert pull.std(axis=0) == pytest.approx([1, 1, 1], abs=0.03)
    correlation = np.corrcoef(pull.T)
    assert [correlation[0, 1], correlation[1, 2], correlation[0, 2]] == pytest.approx([0.5, 0.5, 0.25], abs=0.03)


def test_slot_correlation_brings_the_slots_of_a_token_together():
    router, tokens = router_of(experts=64, top_k=8), tokens_of(400, 0)

    def share_on_one_side(strength):
        ids = router.route(tokens, replace(NO_PULL, slot_correlation=(strength, 0, 0))).expert_ids
        lower = (ids < 32).sum(axis=2)
        return ((lower == 0) | (lower == 8)).mean()

    shares = [share_on_one_side(strength) for strength in (0.0, 4.0, 30.0)]
    assert shares[0] < 0.03  # 2 * 0.24%
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1


def test_populations_are_prefill_vision_prefill_text_and_decode():
    tokens = Tokens(
        modality=np.array([0, 1, 2, 3, 0, 1], np.uint8),
        sequence_id=np.zeros(6, np.int32),
        phase=np.array([0, 0, 0, 0, 1, 1], np.uint8),
    )
    assert tokens.population.tolist() == [1, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("policy", ["standard", "smoes"])
@pytest.mark.parametrize("popularity", [0.0, 0.3, 1.5])
def test_the_share_of_local_tokens_is_that_of_routed_tokens(policy, popularity):
    # per kind of token and home side; 4000 tokens in 4 layers, which the shared pull makes alike: 5 standard errors
    router = router_of(policy, experts=16, top_k=3)
    parameters = RouterParameters(affinity=(-1, 1, 0), slot_correlation=(1, 2, 0), preference=0.7, popularity=popularity)
    for kind, tokens, affinity, spread in ((1, tokens_of(4000, 0), -1, 1), (0, tokens_of(0, 4000), 1, 2)):
        side = router.side[np.arange(4)[None, :, None], router.route(tokens, parameters, with_weights=False).expert_ids]
        for home in (-1, 1):
            local = (side == home).all(axis=2).mean()
            share = router.local_share(parameters, kind=kind, home=home).at(affinity * home, spread)
            assert local == pytest.approx(share, abs=5 * 1.7 * math.sqrt(share * (1 - share) / 16000))


def test_the_share_of_local_tokens_of_equal_experts_is_a_closed_form():
    # 4 of 8 experts a side, K = 2, pull p: 4/(4 + 4 e^-p) * 3/(3 + 4 e^-p); p = ln 2: 4/6 * 3/5 = 0.4
    share = router_of(experts=8, top_k=2).local_share(replace(NO_PULL, depth_decay=0.0), kind=0, home=1)
    assert share.at(math.log(2), 0.0) == pytest.approx(0.4)
    # a side with fewer experts than K never holds them all
    assert router_of(experts=8, top_k=5).local_share(NO_PULL, kind=0, home=1).at(5.0, 1.0) == 0.0


def test_a_layer_that_the_router_does_not_have_is_refused():
    for layers in ([4], [-1], []):
        with pytest.raises(ConfigError, match=r"layers = \[.*\]: a router of 4 layers has 0 to 3"):
            router_of().route(tokens_of(2, 2), NO_PULL, layers=layers)
