"""Drawn experts have the distribution of the best noisy scores: exact probabilities over all rankings, for every policy."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from smoes_sim.routing import RouterParameters, SyntheticRouter, Tokens, choice, find_parameters, published
from smoes_sim.routing.choice import Race, alias_tables
from smoes_sim.routing.counters import EXPERTS, draw, normals, starts, uniform

POLICIES = ("standard", "smoes", "hard", "hybrid", "device_limited", "group_balanced")
PARAMETERS = RouterParameters(affinity=(-1.5, 0.5, 0.0), preference=1.0, popularity=0.7, depth_decay=0.0)
SKEWED = RouterParameters(affinity=(-6.0, 6.0, 0.0), popularity=3.0, depth_decay=0.0)


def tokens_of(number, *, vision, decode=0):
    return Tokens(
        modality=np.full(number, int(vision), np.uint8),
        sequence_id=np.arange(number, dtype=np.int32),
        phase=np.repeat(np.array([0, 1], np.uint8), [number - decode, decode]),
    )


def router_of(policy, *, experts=6, top_k=3, layers=1, groups=3, keep=2, seed=5):
    if policy == "hybrid":
        experts += -experts % 4
    return SyntheticRouter(
        policy=policy, num_experts=experts, top_k=top_k, num_layers=layers, seed=seed, num_groups=groups, kept_groups=keep
    )


def scores_of(router, parameters, *, vision):
    """Score of each expert without noise, from the formula in the module's docstring; forbidden ones are missing."""
    lean, pull = (-0.5, parameters.affinity[0]) if vision else (0.5, parameters.affinity[1])
    scores = {}
    for expert in range(router.num_experts):
        side = int(router.side[0, expert])
        if router.policy in {"hard", "hybrid"} and side == (1 if vision else -1):
            continue
        scores[expert] = (
            parameters.popularity * float(router._popularity[0, expert])
            + parameters.preference * lean * float(router._taste[0, expert])
            + side / 2 * pull
        )
    return scores


def chosen_of(router, ranking, *, groups=3, keep=2):
    """Experts that a policy takes of a ranking by score, in that order."""
    size = router.num_experts // groups
    if router.policy == "group_balanced":
        each = router.top_k // groups
        best = {e for group in range(groups) for e in [e for e in ranking if e // size == group][:each]}
    elif router.policy == "device_limited":
        kept = list(dict.fromkeys(e // size for e in ranking))[:keep]
        best = set([e for e in ranking if e // size in kept][: router.top_k])
    else:
        best = set(ranking[: router.top_k])
    return tuple(e for e in ranking if e in best)


def exact_shares(router, parameters, *, vision):
    """Probability of every ordered choice, summed over all rankings of the experts (Plackett-Luce)."""
    rate = {expert: math.exp(score) for expert, score in scores_of(router, parameters, vision=vision).items()}
    shares = Counter()
    for ranking in permutations(rate):
        left, probability = sum(rate.values()), 1.0
        for expert in ranking:
            probability *= rate[expert] / left
            left = max(left - rate[expert], 1e-300)
        shares[chosen_of(router, ranking)] += probability
    return shares


def chi_square(found, shares, total):
    """Sum over the outcomes expected at least five times, the others together, and its degrees of freedom."""
    expected = {key: total * share for key, share in shares.items()}
    common = [key for key in expected if expected[key] >= 5]
    rest = total - sum(expected[key] for key in common)
    value = sum((found[key] - expected[key]) ** 2 / expected[key] for key in common)
    if rest >= 5:
        value += (total - sum(found[key] for key in common) - rest) ** 2 / rest
    return value, len(common) - (rest < 5)


@pytest.mark.parametrize("how", [(None, False), (None, True), (3, False)])
@pytest.mark.parametrize("parameters", [PARAMETERS, SKEWED])
@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_ordered_choices_have_the_probabilities_of_noisy_scores(policy, vision, parameters, how, monkeypatch):
    # attempts = 3: every token whose first three draws do not do takes the other way, a race of all experts that are left
    attempts, compiled = how
    monkeypatch.setattr(choice, "pays", lambda *_, **__: compiled)
    if attempts:
        monkeypatch.setattr(Race, "attempts", property(lambda _: attempts))
    router = router_of(policy)
    total = 20_000
    trace = router.route(tokens_of(total, vision=vision), parameters, with_weights=False)
    found = Counter(map(tuple, trace.expert_ids[:, 0].tolist()))
    shares = exact_shares(router, parameters, vision=vision)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(found) <= set(shares)
    value, freedom = chi_square(found, shares, total)
    assert value < freedom + 5 * math.sqrt(2 * freedom)  # 5 standard deviations; the seed is fixed


@pytest.mark.parametrize("policy", ["standard", "device_limited"])
def test_pairs_of_experts_and_layers_are_independent_given_the_scores(policy):
    # the first expert of a token in two layers, and of neighbouring tokens in one
    router = router_of(policy, layers=2)
    first = router.route(tokens_of(40_000, vision=False), PARAMETERS, with_weights=False).expert_ids[:, :, 0]
    for one, other in ((first[:, 0], first[:, 1]), (first[:-1:2, 0], first[1::2, 0])):
        table = np.zeros((6, 6))
        np.add.at(table, (one, other), 1)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        value = ((table - expected) ** 2 / expected).sum()
        assert value < 25 + 5 * math.sqrt(50)


@pytest.mark.parametrize("policy", POLICIES)
def test_arrays_and_compiled_code_choose_the_same_experts(policy, monkeypatch):
    router = router_of(policy, experts=16, top_k=4, layers=5, groups=4)
    tokens = tokens_of(700, vision=True, decode=100)
    for parameters in (PARAMETERS, SKEWED, RouterParameters(slot_correlation=(3.0, 3.0, 3.0))):
        traces = []
        for compiled in (False, True):
            monkeypatch.setattr(choice, "pays", lambda *_, compiled=compiled, **__: compiled)
            traces.append(router.route(tokens, parameters))
        assert np.array_equal(traces[0].expert_ids, traces[1].expert_ids)
        assert np.array_equal(traces[0].expert_weights, traces[1].expert_weights)


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_those_of_noisy_scores(policy):
    # against scores with Gumbel noise, chosen by sorting: mean and spread of the weight of each slot
    router, total, rng = router_of(policy), 40_000, np.random.default_rng(1)
    trace = router.route(tokens_of(total, vision=True), PARAMETERS)
    scores = scores_of(router, PARAMETERS, vision=True)
    experts = list(scores)
    noisy = np.array(list(scores.values())) + rng.gumbel(size=(total, len(experts)))
    weights = np.empty((total, router.top_k))
    for token, row in enumerate(np.argsort(-noisy, axis=1).tolist()):
        ranking = [experts[i] for i in row]
        taken = [experts.index(e) for e in chosen_of(router, ranking)]
        weights[token] = np.exp(noisy[token, taken])
    weights /= weights.sum(axis=1, keepdims=True)
    found = trace.expert_weights[:, 0].astype(np.float64)
    for power in (1, 2):
        error = np.sqrt(2 * (weights**power).var(axis=0) / total)
        assert (np.abs((found**power).mean(axis=0) - (weights**power).mean(axis=0)) < 5 * error + 1e-4).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_some_layers_and_some_tokens_have_the_bytes_of_the_whole(policy):
    router = router_of(policy, experts=16, top_k=4, layers=7, groups=4)
    tokens = tokens_of(90, vision=True, decode=30)
    parameters = RouterParameters(affinity=(-1, 1, 2), slot_correlation=(1, 1, 1), preference=0.5)
    whole = router.route(tokens, parameters)
    rows = np.array([80, 3, 41])
    part = router.route(tokens.select(rows), parameters, layers=[6, 2, 3])
    assert part.moe_layers.tolist() == [6, 2, 3]
    assert np.array_equal(part.expert_ids, whole.expert_ids[rows][:, [6, 2, 3]])
    assert np.array_equal(part.expert_weights, whole.expert_weights[rows][:, [6, 2, 3]])
    bare = router.route(tokens, parameters, layers=[0], with_weights=False)
    assert bare.expert_weights is None
    assert np.array_equal(bare.expert_ids, whole.expert_ids[:, :1])


def test_when_all_experts_of_a_side_are_needed_the_rest_is_found_without_draws():
    # hard, K = E / 2: the last expert is one of four, of which one may be a thousand times rarer
    router = router_of("hard", experts=8, top_k=4)
    trace = router.route(tokens_of(500, vision=False), RouterParameters(popularity=5.0))
    assert (np.sort(trace.expert_ids[:, 0], axis=1) == np.flatnonzero(router.side[0] > 0)).all()


def test_an_alias_table_has_the_shares_it_is_given():
    rates = np.array([[0.5, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1e-9, 1.0, 1.0, 1.0]])
    cut, alias = alias_tables(rates)
    for row, wanted in enumerate([[0.5 / 4.5, 3 / 4.5, 0, 1 / 4.5], [0.25] * 4, [1e-9 / 3, 1 / 3, 1 / 3, 1 / 3]]):
        share = np.zeros(4)
        for column in range(4):
            share[column] += cut[row, column] / 2**32 / 4
            share[alias[row, column]] += (2**32 - cut[row, column]) / 2**32 / 4
        assert share == pytest.approx(wanted, abs=2**-32)


def test_counted_numbers_are_even_and_those_of_a_token_do_not_repeat():
    words = draw(starts(3, EXPERTS, range(4), np.arange(50_000)), 0)
    assert len(np.unique(words)) == words.size
    share = uniform(words).ravel()
    # 200 000 numbers: the standard error of their mean is 0.29 / 447, of a bit 0.5 / 447
    assert share.mean() == pytest.approx(0.5, abs=5 * 0.289 / 447)
    for bit in range(64):
        assert ((words >> np.uint64(bit)) & np.uint64(1)).mean() == pytest.approx(0.5, abs=5 * 0.5 / 447)
    both = np.corrcoef(normals(3, 6, np.arange(50_000)))
    assert (np.abs(both - np.eye(6)) < 5 / math.sqrt(50_000) + 1e-5).all()


@pytest.mark.parametrize("policy", ["standard", "smoes"])
def test_a_fit_holds_within_a_third_of_a_point_on_other_tokens_and_seeds(policy):
    # OLMoE: 64 experts, top 8, 16 layers; the published rates. 256 000 pairs of a token and a layer a population: a standard
    # error of 0.1 points at most for independent layers, up to 1.7 times as much with the correlation of neighbours, 0.5
    def olmoe(seed):
        return SyntheticRouter(policy=policy, num_experts=64, top_k=8, num_layers=16, seed=seed)

    few = Tokens(
        modality=np.repeat(np.array([1, 0, 0], np.uint8), [300, 100, 40]),
        sequence_id=np.arange(440, dtype=np.int32),
        phase=np.repeat(np.array([0, 0, 1], np.uint8), [300, 100, 40]),
    )
    known = published()[policy]
    parameters = find_parameters(olmoe(0), few, rates=known.rates, msi=known.msi)
    wanted = {
        "vision": known.rates.prefill_vision,
        "text": (known.rates.prefill * 4 - known.rates.prefill_vision * 3),  # 300 vision and 100 text tokens
        "decode": known.rates.decode,
    }
    other = olmoe(11)
    for name, share in wanted.items():
        tokens = tokens_of(16_000, vision=name == "vision", decode=16_000 if name == "decode" else 0)
        home = np.full(16_000, -1 if name == "vision" else 1) if policy == "smoes" else 1 - 2 * (np.arange(16_000) % 2)
        trace = other.route(tokens, parameters, with_weights=False)
        side = np.take_along_axis(np.broadcast_to(other.side, (16_000, 16, 64)), trace.expert_ids.astype(np.int64), axis=2)
        remote = (side != home[:, None, None]).any(axis=2).mean()
        assert remote == pytest.approx(share, abs=0.003)
