from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoes_sim.placement import TOKEN_RULES, ExpertPlacement, home_tokens, modality_ranks
from smoes_sim.routing import RoutingTrace

TEXT, IMAGE, VIDEO = range(3)


def trace_of(expert_ids, *, modality, sequence=None, phase=None, num_experts=4):
    ids = np.array(expert_ids, dtype=np.int16)
    tokens, layers, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.array(modality, dtype=np.uint8),
        sequence_id=np.array(sequence if sequence is not None else [0] * tokens, dtype=np.int32),
        phase=np.array(phase if phase is not None else [0] * tokens, dtype=np.uint8),
        moe_layers=np.arange(layers, dtype=np.int32),
        num_experts=num_experts,
    )


def contiguous(*, experts, ranks, layers=1):
    return ExpertPlacement(
        physical_to_logical_map=np.tile(np.arange(experts), (layers, 1)),
        slot_rank=np.arange(experts) // (experts // ranks),
    )


def test_data_parallel_deals_out_sequences():
    trace = trace_of([[[0]]] * 6, modality=[TEXT] * 6, sequence=[0, 0, 1, 2, 3, 5], phase=[0, 0, 0, 0, 0, 1])
    home = home_tokens("data_parallel", trace, contiguous(experts=3, ranks=3))
    assert home.tolist() == [0, 0, 1, 2, 0, 2]


def test_sharded_cuts_prefill_into_even_runs_and_leaves_decode_with_its_sequence():
    # 5 prefill tokens over 2 ranks: 3 and 2, whatever their sequence; decode of sequences 0, 1, 2
    trace = trace_of([[[0]]] * 8, modality=[TEXT] * 8, sequence=[0, 0, 0, 1, 2, 0, 1, 2], phase=[0] * 5 + [1] * 3)
    home = home_tokens("sharded", trace, contiguous(experts=4, ranks=2))
    assert home.tolist() == [0, 0, 0, 1, 1, 0, 1, 0]


def test_modality_puts_tokens_where_the_experts_of_their_modality_are():
    # images use experts 2 and 3 on rank 1, text 0 and 1 on rank 0
    trace = trace_of([[[0]], [[3]], [[1]], [[2]], [[0]]], modality=[TEXT, IMAGE, TEXT, VIDEO, TEXT], phase=[0, 0, 0, 0, 1])
    placement = contiguous(experts=4, ranks=2)
    vision, text = modality_ranks(trace, placement)
    assert (vision.tolist(), text.tolist()) == ([1], [0])
    assert home_tokens("modality", trace, placement).tolist() == [0, 1, 0, 1, 0]


def test_modality_cuts_prefill_of_each_modality_into_even_runs_and_deals_decode_out_by_sequence():
    # experts 0, 2 (ranks 0, 2) get the images, experts 1, 3 (ranks 1, 3) the text
    ids = [[[0]], [[2]], [[0]], [[1]], [[3]], [[1]], [[3]], [[3]], [[1]]]
    trace = trace_of(
        ids,
        modality=[IMAGE] * 3 + [TEXT] * 6,
        sequence=[0, 0, 1, 0, 0, 1, 1, 4, 5],
        phase=[0] * 7 + [1] * 2,
    )
    placement = contiguous(experts=4, ranks=4)
    vision, text = modality_ranks(trace, placement)
    assert (vision.tolist(), text.tolist()) == ([0, 2], [1, 3])
    # 3 images over ranks 0, 2: 2 + 1; 4 texts over 1, 3: 2 + 2; decode: sequence 4 -> first, 5 -> second text rank
    assert home_tokens("modality", trace, placement).tolist() == [0, 0, 2, 1, 1, 3, 3, 1, 3]


def test_another_trace_may_decide_which_ranks_serve_text():
    # by its own routing text would live on rank 0; the deciding trace has it the other way round
    own = trace_of([[[0]], [[3]], [[0]]], modality=[TEXT, IMAGE, TEXT], phase=[0, 0, 1])
    other = trace_of([[[0]], [[3]]], modality=[IMAGE, TEXT])
    placement = contiguous(experts=4, ranks=2)
    assert home_tokens("modality", own, placement).tolist() == [0, 1, 0]
    assert home_tokens("modality", own, placement, decide_by=other).tolist() == [1, 0, 1]
    for rule in ("data_parallel", "sharded", "affinity"):
        assert (home_tokens(rule, own, placement, decide_by=other) == home_tokens(rule, own, placement)).all()


def test_a_rank_prefers_text_by_shares_not_by_counts():
    # 2 images to rank 0, 1 to rank 1; text: 5 of 9 to rank 0, 4 to rank 1. Rank 0 has more text than vision and yet
    # leans to vision: 2/3 > 5/9
    ids = [[[0]], [[0]], [[1]], *[[[0]]] * 5, *[[[1]]] * 4]
    vision, text = modality_ranks(
        trace_of(ids, modality=[IMAGE] * 3 + [TEXT] * 9, num_experts=2), contiguous(experts=2, ranks=2)
    )
    assert (vision.tolist(), text.tolist()) == ([0], [1])


def test_preferences_are_summed_over_layers():
    # layer 0 leans by 1 of 2 slots to text on rank 0, layers 1 and 2 to text on rank 1
    ids = [[[0], [1], [1]], [[1], [0], [0]]]
    trace = trace_of(ids, modality=[TEXT, IMAGE], num_experts=2)
    vision, text = modality_ranks(trace, contiguous(experts=2, ranks=2, layers=3))
    assert (vision.tolist(), text.tolist()) == ([0], [1])


def test_with_several_ranks_both_modalities_have_one_even_without_any_preference():
    trace = trace_of([[[0]], [[1]], [[0]], [[1]]], modality=[TEXT, TEXT, IMAGE, IMAGE], num_experts=2)
    vision, text = modality_ranks(trace, contiguous(experts=2, ranks=2))
    assert (vision.tolist(), text.tolist()) == ([0], [1])


@pytest.mark.parametrize("modality", [[TEXT, TEXT], [IMAGE, VIDEO]])
def test_with_one_modality_all_ranks_serve_it(modality):
    trace = trace_of([[[0]], [[1]]], modality=modality)
    placement = contiguous(experts=4, ranks=2)
    assert [ranks.tolist() for ranks in modality_ranks(trace, placement)] == [[0, 1], [0, 1]]
    assert home_tokens("modality", trace, placement).tolist() == [0, 1]


def test_affinity_takes_the_rank_with_most_of_the_experts_over_all_layers_the_lowest_of_equals():
    ids = [
        [[0, 2], [3, 2]],  # rank 1 has three of four
        [[0, 3], [1, 2]],  # two each: the lowest
        [[3, -1], [-1, -1]],  # empty slots do not vote
        [[-1, -1], [-1, -1]],  # nothing at all: the lowest
    ]
    trace = trace_of(ids, modality=[TEXT] * 4)
    assert home_tokens("affinity", trace, contiguous(experts=4, ranks=2, layers=2)).tolist() == [1, 0, 1, 0]


def test_affinity_reads_the_placement_of_each_layer():
    placement = ExpertPlacement(
        physical_to_logical_map=np.array([[0, 1, 2, 3], [2, 3, 0, 1]]), slot_rank=np.array([0, 0, 1, 1])
    )
    # layer 0: expert 0 on rank 0; layer 1: experts 0 and 1 on rank 1
    trace = trace_of([[[0, -1], [0, 1]]], modality=[TEXT])
    assert home_tokens("affinity", trace, placement).tolist() == [1]


def test_affinity_deals_sequences_out_over_the_ep_groups():
    # groups of ranks 0, 1 and 2, 3; sequences 0 and 2 in the first, 1 and 3 in the second; expert e on rank e of a group
    placement = ExpertPlacement(physical_to_logical_map=np.array([[0, 1]]), slot_rank=np.array([0, 1]), num_groups=2)
    trace = trace_of([[[1]], [[1]], [[0]], [[0]]], modality=[TEXT] * 4, sequence=[0, 1, 2, 3], num_experts=2)
    assert home_tokens("affinity", trace, placement).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("rule", TOKEN_RULES)
def test_on_one_rank_everything_is_at_home_there(rule):
    trace = trace_of([[[0]], [[1]], [[2]]], modality=[TEXT, IMAGE, TEXT], sequence=[0, 1, 2], phase=[0, 0, 1])
    assert home_tokens(rule, trace, contiguous(experts=4, ranks=1)).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=60)
@given(ranks=st.integers(1, 5), tokens=st.integers(1, 40), seed=st.integers(0, 1000), rule=st.sampled_from(TOKEN_RULES))
def test_homes_are_ranks_and_sharded_differs_by_at_most_one_token(ranks, tokens, seed, rule):
    rng = np.random.default_rng(seed)
    trace = trace_of(
        rng.integers(-1, ranks, (tokens, 2, 1)),
        modality=rng.integers(0, 4, tokens),
        sequence=rng.integers(0, 7, tokens),
        num_experts=ranks,
    )
    home = home_tokens(rule, trace, contiguous(experts=ranks, ranks=ranks, layers=2))
    assert home.shape == (tokens,)
    assert ((home >= 0) & (home < ranks)).all()
    if rule == "sharded":
        load = np.bincount(home, minlength=ranks)
        assert load.max() - load.min() <= 1
        assert (np.diff(home) >= 0).all()
