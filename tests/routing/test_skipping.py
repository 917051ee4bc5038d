"""Slots that are left out: how many, which, and what follows in traffic."""

from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.errors import TraceError
from smoes_sim.placement import place_experts
from smoes_sim.routing import RouterParameters, RoutingTrace, SkipShares, SyntheticRouter, Tokens, skip_slots
from smoes_sim.traffic.copies import count_traffic


def trace_of(weights, ids, modality=None):
    """One layer."""
    ids = np.array(ids, np.int16)[:, None]
    return RoutingTrace(
        expert_ids=ids,
        expert_weights=None if weights is None else np.array(weights, np.float16)[:, None],
        modality=np.array(modality or [0] * len(ids), np.uint8),
        sequence_id=np.zeros(len(ids), np.int32),
        phase=np.zeros(len(ids), np.uint8),
        moe_layers=np.arange(1, dtype=np.int32),
        num_experts=6,
    )


def synthetic(vision=120, text=60):
    router = SyntheticRouter(policy="standard", num_experts=16, top_k=4, num_layers=3, seed=1)
    total = vision + text
    tokens = Tokens(
        modality=np.repeat(np.array([1, 0], np.uint8), [vision, text]),
        sequence_id=(np.arange(total) % 4).astype(np.int32),
        phase=np.zeros(total, np.uint8),
    )
    return router.route(tokens, RouterParameters())


def test_the_slots_of_lowest_weight_relative_to_the_best_of_their_token_go():
    # relative weights 0.5 0.17 and 0.8 0.2: a third of six slots are the two of 0.1
    found = skip_slots(trace_of([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]], [[0, 1, 2], [3, 4, 5]]), SkipShares(text=1 / 3))
    assert found.expert_ids[:, 0].tolist() == [[0, 1, -1], [3, 4, -1]]
    assert found.expert_weights[:, 0].astype(float) == pytest.approx(np.array([[0.6, 0.3, 0], [0.5, 0.4, 0]]), abs=1e-3)


def test_what_is_small_beside_the_best_goes_before_what_is_small():
    # 0.3 of 0.7 (0.43) goes before 0.2 of 0.2 (1): relative, not absolute
    found = skip_slots(trace_of([[0.7, 0.3], [0.21, 0.2]], [[0, 1], [2, 3]]), SkipShares(text=0.25))
    assert found.expert_ids[:, 0].tolist() == [[0, -1], [2, 3]]


def test_ties_fall_in_the_order_of_the_trace_and_slots_need_not_be_sorted():
    found = skip_slots(trace_of([[0.25, 0.5], [0.5, 0.25], [0.25, 0.5]], [[0, 1], [2, 3], [4, 5]]), SkipShares(text=1 / 3))
    assert found.expert_ids[:, 0].tolist() == [[-1, 1], [2, -1], [4, 5]]


@pytest.mark.parametrize(("vision", "text"), [(0.5, 0.0), (0.75, 0.6), (0.0, 0.123), (0.71, 0.3)])
def test_shares_are_met_to_the_slot_and_the_best_always_stays(vision, text):
    whole = synthetic()
    found = skip_slots(whole, SkipShares(vision=vision, text=text))
    gone = found.expert_ids < 0
    assert gone[:120].sum() == round(vision * 120 * 3 * 4)
    assert gone[120:].sum() == round(text * 60 * 3 * 4)
    assert (found.expert_ids[:, :, 0] == whole.expert_ids[:, :, 0]).all()  # sorted by weight: the first is the best
    assert np.array_equal(found.expert_ids[~gone], whole.expert_ids[~gone])
    assert (found.expert_weights[gone] == 0).all()
    assert np.array_equal(found.expert_weights[~gone], whole.expert_weights[~gone])


def test_at_the_largest_share_every_token_has_one_expert():
    found = skip_slots(synthetic(), SkipShares(vision=0.75, text=0.75))
    assert ((found.expert_ids >= 0).sum(axis=2) == 1).all()


def test_slots_that_were_empty_before_do_not_count():
    # 5 slots are used, 40% of them are 2
    ids = [[0, 1, -1], [3, 4, 5]]
    found = skip_slots(trace_of([[0.6, 0.3, 0.0], [0.5, 0.4, 0.1]], ids), SkipShares(text=0.4))
    assert found.expert_ids[:, 0].tolist() == [[0, -1, -1], [3, 4, -1]]


def test_copies_and_the_work_of_experts_follow():
    # six experts on three ranks, two each; tokens at home on rank 0. Before: both go to ranks 0, 0, 1 and 1, 2, 2.
    trace = trace_of([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]], [[0, 1, 2], [3, 4, 5]])
    home = np.array([0, 0])
    placement = place_experts("contiguous", trace, num_ranks=3, rng=np.random.default_rng(0))
    whole, left = (
        count_traffic(one, placement, home, deduplicate="none") for one in (trace, skip_slots(trace, SkipShares(text=1 / 3)))
    )
    assert (whole.routed, left.routed) == (6, 4)
    assert (whole.remote_copies, left.remote_copies) == (4, 2)
    assert left.slots.tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
    ("weights", "share", "message"),
    [
        (
            [[0.6, 0.4]],
            0.8,
            r"routing\.skip\.text = 0\.8: the best slot of a token is never skipped, so at most 0\.5 can be skipped",
        ),
        ([[0.6, 0.4]], 0.9, r"routing\.skip\.text = 0\.9"),
        (None, 0.1, r"expert_weights are missing, which routing\.skip needs"),
    ],
)
def test_what_cannot_be_skipped_is_refused(weights, share, message):
    with pytest.raises(TraceError, match=message):
        skip_slots(trace_of(weights, [[0, 1]]), SkipShares(text=share))
