from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy

DENSE = "model=olmoe-1b-7b-dense-active"
FIVE = "workload={batch: 2, text_tokens: 5, output_tokens: 4}"
TWO_RANKS = "topology.ranks=2"


def loads(deployment, steps):
    return [step.batches[0].load for step in steps]


def test_prefill_in_chunks_attends_to_the_chunks_before(tmp_path):
    # 5 tokens a rank, 3 at a time: 1 + 2 + 3 pairs, then 4 + 5 with 3 tokens read again; only the last token answers
    deployment = deploy(small(tmp_path, DENSE, FIVE, TWO_RANKS, "parallelism.prefill_chunk=3"))
    first, second = loads(deployment, deployment.chunks)
    assert (first.prefill.tolist(), second.prefill.tolist()) == ([3, 3], [2, 2])
    assert (first.pairs.tolist(), second.pairs.tolist()) == ([6, 6], [9, 9])
    assert (first.earlier.tolist(), second.earlier.tolist()) == ([0, 0], [3, 3])
    assert (first.outputs.tolist(), second.outputs.tolist()) == ([0, 0], [1, 1])


def test_a_chunk_may_end_one_sequence_and_begin_the_next(tmp_path):
    # 3 sequences on one rank, 4 tokens at a time: 4 | 1 + 3 | 2 + 2 | 3
    deployment = deploy(
        small(
            tmp_path,
            DENSE,
            "workload={batch: 3, text_tokens: 5, output_tokens: 2}",
            "topology.ranks=1",
            "parallelism.prefill_chunk=4",
        )
    )
    found = loads(deployment, deployment.chunks)
    assert [load.prefill.tolist() for load in found] == [[4], [4], [4], [3]]
    assert [load.earlier.tolist() for load in found] == [[0], [4], [3], [2]]
    assert [load.outputs.tolist() for load in found] == [[0], [1], [1], [1]]


def test_without_a_chunk_size_prefill_is_one_step_and_nothing_is_mixed(tmp_path):
    deployment = deploy(small(tmp_path, DENSE, FIVE, TWO_RANKS))
    assert deployment.chunks == [deployment.prefill]
    assert deployment.mixed is None
    assert loads(deployment, deployment.chunks)[0].pairs.tolist() == [15, 15]


def test_a_mixed_step_is_a_chunk_and_a_decode_step_together(tmp_path):
    # the second chunk of 2 tokens, and the second of 3 decode steps: the token after 5 + 1 others
    deployment = deploy(small(tmp_path, DENSE, FIVE, TWO_RANKS, "parallelism.prefill_chunk=3"))
    load = deployment.mixed.batches[0].load
    assert (load.prefill.tolist(), load.decode.tolist()) == ([2, 2], [1, 1])
    assert (load.pairs.tolist(), load.context.tolist()) == ([9, 9], [7, 7])
    assert load.outputs.tolist() == [2, 2]


def test_attention_groups_deal_out_sequences_and_the_tokens_of_each(tmp_path):
    # groups 0-1 and 2-3; sequence 0 in the first, 1 in the second, each with 5 tokens
    deployment = deploy(small(tmp_path, DENSE, FIVE, "parallelism.tensor=2"))
    (load,) = loads(deployment, deployment.chunks)
    assert sorted(load.prefill[:2].tolist()) == sorted(load.prefill[2:].tolist()) == [2, 3]
    group = deployment.prefill.batches[0].group
    (gather,), (scatter,) = group.gather, group.scatter
    # each rank sends its tokens, 2 bytes for each of 2048 elements, to the one other rank of its group
    sent = {(int(a), int(b)): size for a, b, size in zip(gather.source, gather.destination, gather.size, strict=True)}
    assert set(sent) == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert [sent[pair] for pair in ((0, 1), (1, 0))] == (load.prefill[:2] * 4096).tolist()
    back = {(int(a), int(b)): size for a, b, size in zip(scatter.source, scatter.destination, scatter.size, strict=True)}
    assert {pair[::-1]: size for pair, size in back.items()} == sent


def test_experts_stay_spread_over_all_ranks_whatever_the_groups(tmp_path):
    alone, grouped = (deploy(small(tmp_path, f"parallelism.tensor={tensor}")) for tensor in (1, 4))
    assert grouped.prefill.traffic.slots.sum() == alone.prefill.traffic.slots.sum()
    assert np.array_equal(grouped.prefill.traffic.expert_slots, alone.prefill.traffic.expert_slots)
    assert alone.prefill.batches[0].group is None


@pytest.mark.parametrize(("tokens", "halves"), [(2, [1, 1]), (5, [3, 2]), (1, [1])])
def test_two_batch_gives_every_rank_half_of_its_tokens_in_each_batch(tmp_path, tokens, halves):
    # two sequences, one per rank; an odd token goes to the first half, and there is no empty half
    workload = f"workload={{batch: 2, text_tokens: {tokens}, output_tokens: 2}}"
    deployment = deploy(small(tmp_path, workload, TWO_RANKS, "overlap=two_batch"))
    assert [batch.load.prefill.tolist() for batch in deployment.prefill.batches] == [[half, half] for half in halves]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallelism.tensor=3"], r"parallelism\.tensor = 3 does not divide the 4 ranks"),
        (["parallelism.tensor=2", "placement.tokens=modality"], r"tokens = modality spreads a sequence .*\.tensor = 2"),
        (["parallelism.prefill_chunk=0"], r"prefill_chunk = 0: .* greater than or equal to 1"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        deploy(small(tmp_path, *overrides))
