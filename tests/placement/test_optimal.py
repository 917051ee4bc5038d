from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoes_sim.errors import PlacementError
from smoes_sim.placement import optimal
from smoes_sim.placement.coactivation import coactivation, keep_together, kept_together
from smoes_sim.placement.eplb import add_replicas, balance
from smoes_sim.placement.judge import optimality_gaps
from smoes_sim.placement.optimal import least_load, most_together
from smoes_sim.routing import RoutingTrace


def trace_of(expert_ids, *, num_experts, modality=None):
    ids = np.array(expert_ids, dtype=np.int16)
    T, L, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.zeros(T, np.uint8) if modality is None else np.array(modality, dtype=np.uint8),
        sequence_id=np.zeros(T, np.int32),
        phase=np.zeros(T, np.uint8),
        moe_layers=np.arange(L, dtype=np.int32),
        num_experts=num_experts,
    )


def busiest(loads, slots, ranks):
    share = np.asarray(loads) / np.bincount(slots, minlength=len(loads))
    return max(float(share[row].sum()) for row in np.reshape(slots, (ranks, -1)))


def test_by_hand():
    # 5 + 3 + 1 and 4 + 3 + 2; four experts 6 1 1 1: 6 + 1; with a spare slot each 3 + 1 + .5 and 3 + 1 + .5
    assert busiest([5, 4, 3, 3, 2, 1], least_load(np.array([5, 4, 3, 3, 2, 1]), num_ranks=2), 2) == 9
    assert busiest([6, 1, 1, 1], least_load(np.array([6, 1, 1, 1]), num_ranks=2), 2) == 7
    assert busiest([6, 1, 1, 1], least_load(np.array([6, 1, 1, 1]), num_ranks=2, spare=1), 2) == pytest.approx(4.5)
    # three experts on two ranks, two and one: the heaviest alone on the second rank (9), not with another (10)
    assert least_load(np.array([9, 1, 1]), num_ranks=2).tolist() == [1, 2, 0]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_trying_everything_finds(seed):
    loads = np.random.default_rng(seed).integers(1, 30, 6)
    cuts = itertools.combinations(range(6), 3)
    least = min(max(loads[list(half)].sum(), loads.sum() - loads[list(half)].sum()) for half in cuts)
    assert busiest(loads, least_load(loads, num_ranks=2), 2) == least


@settings(deadline=None, max_examples=12)
@given(loads=st.lists(st.integers(0, 50), min_size=6, max_size=6), spare=st.integers(0, 1))
def test_no_heuristic_beats_it(loads, spare):
    values = np.array(loads)
    exact = least_load(values, num_ranks=2, spare=spare)
    assert set(exact.tolist()) == set(range(6))
    least = busiest(values, exact, 2)
    others = [balance(values, num_slots=6 + 2 * spare, num_ranks=2)]
    others.append(add_replicas(np.arange(6).reshape(2, 3), values, slots=3 + spare).ravel())
    assert all(busiest(values, slots, 2) >= least - 1e-6 for slots in others)


def matrix(seed, experts=6):
    upper = np.triu(np.random.default_rng(seed).integers(0, 20, (experts, experts)), 1)
    return (upper + upper.T).astype(float)


@pytest.mark.parametrize("seed", range(4))
def test_the_most_pairs_together_is_what_trying_everything_finds_and_no_swap_beats_it(seed):
    together = matrix(seed)
    orders = [np.array([*half, *(set(range(6)) - set(half))]) for half in itertools.combinations(range(6), 3)]
    most = max(kept_together(together, order, num_ranks=2) for order in orders)
    assert kept_together(together, most_together(together, num_ranks=2), num_ranks=2) == most
    greedy = kept_together(together, keep_together(together, num_ranks=2), num_ranks=2)
    assert most >= greedy >= np.mean([kept_together(together, order, num_ranks=2) for order in orders])


def test_no_swap_of_two_experts_helps_any_more():
    together = matrix(7, experts=12)
    order = keep_together(together, num_ranks=3)
    kept = kept_together(together, order, num_ranks=3)
    for first, second in itertools.combinations(range(12), 2):
        swapped = order.copy()
        swapped[[first, second]] = order[[second, first]]
        assert kept_together(together, swapped, num_ranks=3) <= kept


def test_pairs_are_counted_by_token_and_kept_by_hand():
    # 0-2 five times, 1-3 four times, 0-1 once; an empty slot is no pair
    trace = trace_of([[[0, 2]]] * 5 + [[[3, 1]]] * 4 + [[[0, 1]]] + [[[2, -1]]], num_experts=4)
    together = coactivation(trace, 0)
    assert together.tolist() == [[0, 1, 5, 0], [1, 0, 0, 4], [5, 0, 0, 0], [0, 4, 0, 0]]
    order = keep_together(together, num_ranks=2)
    assert order.tolist() == [0, 2, 1, 3]
    assert kept_together(together, order, num_ranks=2) == 9


def test_gaps_are_never_negative_and_those_of_the_exact_ones_are_zero():
    rng = np.random.default_rng(3)
    trace = trace_of(rng.choice(8, (60, 2, 2), p=np.arange(1, 9) / 36), num_experts=8, modality=rng.integers(0, 2, 60))
    rows = {row.rule: row for row in optimality_gaps(trace, num_ranks=2).rows}
    assert rows["optimal"].load_gap == 0
    assert all(row.load_gap >= -1e-9 and row.together_gap >= -1e-9 for row in rows.values())
    assert rows["contiguous"].load_gap > rows["eplb"].load_gap
    assert rows["coactivation"].together_gap <= min(rows[rule].together_gap for rule in ("random", "contiguous"))
    found = optimality_gaps(trace, num_ranks=2, spare=1)
    assert [row.rule for row in found.rows] == ["bins", "eplb", "optimal"]
    assert [row["rule"] for row in found.to_dict()["rows"]] == found.to_polars()["rule"].to_list()
    assert "together" in found.to_dict()["rows"][0]
    assert repr(found).splitlines()[0].split() == [
        "rule",
        "max/mean",
        "gap",
        "(%)",
        "pairs",
        "together",
        "(%)",
        "gap",
        "(%)",
    ]


def test_what_is_not_proven_in_time_is_refused(monkeypatch):
    monkeypatch.setattr(optimal, "_TIME_LIMIT", 0.0)
    with pytest.raises(PlacementError, match=r"least load of 12 experts on 4 ranks: not proven within 0 s.*Use eplb"):
        least_load(np.random.default_rng(0).integers(1, 1000, 12), num_ranks=4, spare=1)
