from __future__ import annotations

import numpy as np
import pytest
from build_from import topology
from hypothesis import given
from hypothesis import strategies as st
from reference_traffic import count_copies, remote_share

from smoes_sim.placement import ExpertPlacement
from smoes_sim.routing import RoutingTrace
from smoes_sim.topology import Builder
from smoes_sim.traffic import copies
from smoes_sim.traffic.copies import copy_bytes, count_traffic, remote_tokens, transmission_rate


def trace_of(expert_ids, *, num_experts, modality=None, phase=None):
    ids = np.array(expert_ids, dtype=np.int16)
    tokens, layers, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.zeros(tokens, np.uint8) if modality is None else np.array(modality, dtype=np.uint8),
        sequence_id=np.zeros(tokens, np.int32),
        phase=np.zeros(tokens, np.uint8) if phase is None else np.array(phase, dtype=np.uint8),
        moe_layers=np.arange(layers, dtype=np.int32),
        num_experts=num_experts,
    )


def contiguous(*, ranks, each=1, layers=1):
    slots = np.tile(np.arange(ranks * each), (layers, 1))
    return ExpertPlacement(physical_to_logical_map=slots, slot_rank=np.arange(ranks * each) // each)


def two_level(nodes, per_node):
    return topology(
        f"{{kind: two_level, nodes: {nodes}, ranks_per_node: {per_node}, scale_up: {{bandwidth: 400 GB/s}}, "
        "nic: {bandwidth: 50 GB/s}}"
    )


def nodes_of(node_of_rank):
    """Ranks on one switch, on the nodes given: nodes may differ in size and their ranks need not be neighbours."""
    builder = Builder()
    ranks = [builder.rank(node=node) for node in node_of_rank]
    switch = builder.switch("switch")
    for rank in ranks:
        builder.join(rank, switch, bandwidth=1.0, latency=0.0, kind="link")
    return builder.build(name="nodes", kind="graph")


@st.composite
def cases(draw):
    """A topology (even, or of nodes of 1 to 3 ranks in any order), a placement and a trace with empty slots."""
    if draw(st.booleans()):
        net = two_level(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    else:
        sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        net = nodes_of(draw(st.permutations([node for node, size in enumerate(sizes) for _ in range(size)])))
    ranks, each, layers = net.num_ranks, draw(st.integers(1, 3)), draw(st.integers(1, 2))
    experts = ranks * each
    top_k = draw(st.integers(1, min(4, experts)))
    slot = st.lists(st.integers(0, experts - 1), min_size=top_k, max_size=top_k, unique=True)
    dropped = st.lists(st.booleans(), min_size=top_k, max_size=top_k)

    def route():
        return [-1 if drop else expert for expert, drop in zip(draw(slot), draw(dropped), strict=True)]

    tokens = draw(st.integers(1, 6))
    home = np.array([draw(st.integers(0, ranks - 1)) for _ in range(tokens)])
    trace = trace_of([[route() for _ in range(layers)] for _ in range(tokens)], num_experts=experts)
    slots = np.array([draw(st.permutations(range(experts))) for _ in range(layers)])
    return net, ExpertPlacement(physical_to_logical_map=slots, slot_rank=np.arange(experts) // each), trace, home


@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
@given(case=cases())
def test_copies_equal_a_slow_loop_over_tokens(deduplicate, case):
    net, placement, trace, home = case
    traffic = count_traffic(trace, placement, home, deduplicate=deduplicate, topology=net)
    expected = count_copies(
        trace.expert_ids, placement.expert_rank, home, deduplicate=deduplicate, node_of_rank=net.node_of_rank.tolist()
    )
    assert [stage.tolist() for stage in traffic.stages] == [stage.tolist() for stage in expected]


def counted_both_ways(trace, placement, home, **options):
    """The counts of arrays and of compiled code, as lists."""
    results = []
    for compiled in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copies, "pays", lambda *_, compiled=compiled, **__: compiled)
            patch.setattr(copies, "_BLOCK", 2)
            traffic = count_traffic(trace, placement, home, **options)
        arrays = (*traffic.stages, traffic.slots, traffic.expert_slots, traffic.active_experts)
        assert {array.dtype for array in arrays} == {np.dtype(np.int64)}
        results.append([array.tolist() for array in arrays])
    return results


@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
@given(case=cases())
def test_arrays_and_compiled_code_count_the_same(deduplicate, case):
    net, placement, trace, home = case
    arrays, compiled = counted_both_ways(trace, placement, home, deduplicate=deduplicate, topology=net)
    assert arrays == compiled


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
def test_arrays_and_compiled_code_count_the_same_with_replicas_and_groups(deduplicate, groups):
    # experts 0 and 1 have two copies, on ranks 0 and 1, and 1 and 2; read-only arrays, as workers get them
    rng = np.random.default_rng(0)
    placement = ExpertPlacement(
        physical_to_logical_map=np.array([[0, 2, 0, 1, 1, 3], [3, 0, 1, 0, 2, 1]]),
        slot_rank=np.array([0, 0, 1, 1, 2, 2]),
        num_groups=groups,
    )
    trace = trace_of(np.argsort(rng.random((40, 2, 4)), axis=2)[:, :, :3] - (rng.random((40, 2, 1)) < 0.1), num_experts=4)
    trace.expert_ids.flags.writeable = False
    home = rng.integers(3 * groups, size=40)
    net = two_level(3, groups)
    arrays, compiled = counted_both_ways(trace, placement, home, deduplicate=deduplicate, topology=net)
    assert arrays == compiled


@given(case=cases())
def test_copies_and_slots_are_conserved(case):
    net, placement, trace, home = case
    none, rank, node = (
        count_traffic(trace, placement, home, deduplicate=rule, topology=net) for rule in ("none", "rank", "node")
    )
    routed = int((trace.expert_ids >= 0).sum())
    for traffic in (none, rank, node):
        assert traffic.routed == int(traffic.expert_slots.sum()) == routed
        total = sum(int(stage.sum()) for stage in traffic.stages)
        assert traffic.local_copies + traffic.remote_copies == total
        assert traffic.imbalance() >= 1
    assert int(none.stages[0].sum()) == routed
    # what reaches a rank is what its experts process
    assert none.stages[0].sum(axis=1).tolist() == none.slots.tolist() == rank.slots.tolist()
    # once per rank is never more, pair by pair, and there is something wherever there was something
    assert (rank.stages[0] <= none.stages[0]).all()
    assert ((rank.stages[0] > 0) == (none.stages[0] > 0)).all()
    # by node, every rank still gets each token once, and no more copies cross between nodes
    assert node.stages[1].sum(axis=1).tolist() == rank.stages[0].sum(axis=1).tolist()
    crossing = net.node_of_rank[:, None] != net.node_of_rank[None, :]
    assert int(node.stages[0].sum()) == int(node.stages[0][:, crossing].sum()) <= int(rank.stages[0][:, crossing].sum())
    assert not node.stages[1][:, crossing].any()


@given(case=cases())
def test_the_diagonal_of_rank_copies_is_the_tokens_with_an_expert_at_home(case):
    _, placement, trace, home = case
    traffic = count_traffic(trace, placement, home, deduplicate="rank")
    at_home = 0
    for token in range(trace.num_tokens):
        for layer in range(trace.num_layers):
            experts = trace.expert_ids[token, layer]
            at_home += any(placement.expert_rank[layer, e] == home[token] for e in experts if e >= 0)
    assert traffic.local_copies == at_home


@given(case=cases(), data=st.data())
def test_renaming_ranks_renames_rows_and_columns(case, data):
    net, placement, trace, home = case
    new = np.array(data.draw(st.permutations(range(net.num_ranks))))
    renamed = ExpertPlacement(physical_to_logical_map=placement.physical_to_logical_map, slot_rank=new[placement.slot_rank])
    for rule in ("none", "rank"):
        before = count_traffic(trace, placement, home, deduplicate=rule).stages[0]
        after = count_traffic(trace, renamed, new[home], deduplicate=rule).stages[0]
        assert after[:, new[:, None], new[None, :]].tolist() == before.tolist()


@given(case=cases())
def test_a_token_is_remote_exactly_when_a_rank_copy_of_it_leaves(case):
    net, placement, trace, home = case
    remote = remote_tokens(trace, placement, home)
    for token in range(trace.num_tokens):
        alone = count_traffic(trace.select([token]), placement, home[[token]], deduplicate="rank").stages[0]
        leaves = [int(matrix.sum() - np.trace(matrix)) > 0 for matrix in alone]
        assert remote[token].tolist() == leaves
    assert net.num_ranks > 1 or not remote.any()


def test_a_token_with_two_experts_on_one_rank_is_sent_twice_or_once():
    # the example of the docstring: home 0, experts on ranks 0, 1, 1
    trace = trace_of([[[0, 2, 3]]], num_experts=4)
    placement, home = contiguous(ranks=2, each=2), np.array([0])
    none = count_traffic(trace, placement, home, deduplicate="none")
    rank = count_traffic(trace, placement, home, deduplicate="rank")
    assert none.stages[0].tolist() == [[[1, 2], [0, 0]]]
    assert rank.stages[0].tolist() == [[[1, 1], [0, 0]]]
    assert (rank.local_copies, rank.remote_copies, rank.routed) == (1, 1, 3)
    assert rank.slots.tolist() == [[1, 2]]
    assert rank.expert_slots.tolist() == [[[1, 0, 1, 1]]]


def test_by_node_a_token_crosses_once_and_is_forwarded_inside():
    # nodes {0, 1}, {2, 3}, one expert a rank. The token at home on 1 needs 0, 2 and 3: once over the network to 3
    # (the same place in node 1), from there to 2 and to itself; inside its own node straight to 0.
    trace = trace_of([[[0, 2, 3]]], num_experts=4)
    placement, home = contiguous(ranks=4), np.array([1])
    traffic = count_traffic(trace, placement, home, deduplicate="node", topology=two_level(2, 2))
    between, inside = (stage[0].tolist() for stage in traffic.stages)
    assert between == [[0] * 4, [0, 0, 0, 1], [0] * 4, [0] * 4]
    assert inside == [[0] * 4, [1, 0, 0, 0], [0] * 4, [0, 0, 1, 1]]
    assert (traffic.local_copies, traffic.remote_copies) == (1, 3)
    # without forwarding: two copies cross and one stays in the node
    assert count_traffic(trace, placement, home, deduplicate="rank").stages[0][0, 1].tolist() == [1, 0, 1, 1]


def test_in_a_smaller_node_the_places_start_over():
    # nodes {0, 1, 2} and {3, 4}: rank 2 is third, so its tokens enter node 1 at its first rank, 3; rank 1 at 4
    net = nodes_of([0, 0, 0, 1, 1])
    trace = trace_of([[[4]], [[4]]], num_experts=5)
    traffic = count_traffic(trace, contiguous(ranks=5), np.array([2, 1]), deduplicate="node", topology=net)
    between, inside = (stage[0] for stage in traffic.stages)
    assert np.argwhere(between).tolist() == [[1, 4], [2, 3]]
    assert np.argwhere(inside).tolist() == [[3, 4], [4, 4]]


def test_empty_slots_send_nothing():
    trace = trace_of([[[-1, -1]], [[-1, 1]]], num_experts=2)
    for rule in ("none", "rank", "node"):
        traffic = count_traffic(trace, contiguous(ranks=2), np.array([0, 0]), deduplicate=rule, topology=two_level(2, 1))
        assert traffic.routed == 1
        assert traffic.slots.tolist() == [[0, 1]]
        assert traffic.remote_copies == 1


def test_imbalance_is_the_mean_over_layers_of_busiest_over_mean():
    # layer 0: 3 and 1 slots, 3 / 2; layer 1: 2 and 2; layer 2 routes nothing and does not count: (1.5 + 1) / 2
    ids = [[[0], [0], [-1]], [[0], [1], [-1]], [[0], [0], [-1]], [[1], [1], [-1]]]
    traffic = count_traffic(
        trace_of(ids, num_experts=2), contiguous(ranks=2, layers=3), np.zeros(4, int), deduplicate="rank"
    )
    assert traffic.imbalance() == pytest.approx(1.25)
    nothing = count_traffic(trace_of([[[-1]]], num_experts=2), contiguous(ranks=2), np.zeros(1, int), deduplicate="rank")
    assert nothing.imbalance() == 1.0


def test_the_transmission_rate_by_hand():
    # two ranks, two experts each; (home; layer 0; layer 1) -> remote
    ids = [
        [[0, 1], [0, 2]],  # image, home 0: stays, leaves
        [[0, 1], [1, 0]],  # video, home 0: stays, stays
        [[2, 3], [0, -1]],  # text, home 1: stays, leaves
        [[0, 3], [1, 3]],  # text, home 1: leaves, leaves
        [[-1, -1], [3, -1]],  # text in decode, home 1: nothing to send, stays
        [[1, 2], [2, 2]],  # text in decode, home 0: leaves, leaves
    ]
    trace = trace_of(ids, num_experts=4, modality=[1, 2, 0, 0, 0, 0], phase=[0, 0, 0, 0, 1, 1])
    home = np.array([0, 0, 1, 1, 1, 0])
    placement = contiguous(ranks=2, each=2, layers=2)
    rates = transmission_rate(trace, placement, home)
    assert rates.prefill_vision == pytest.approx(1 / 4)
    assert rates.prefill_text == pytest.approx(3 / 4)
    assert rates.prefill == pytest.approx(4 / 8)
    assert rates.decode == pytest.approx(2 / 4)
    assert remote_share(ids, placement.expert_rank, home, range(4)) == pytest.approx(4 / 8)


def test_without_tokens_of_a_kind_its_rate_is_not_a_number():
    trace = trace_of([[[0]]], num_experts=2)
    rates = transmission_rate(trace, contiguous(ranks=2), np.array([1]))
    assert np.isnan([rates.prefill_vision, rates.decode]).tolist() == [True, True]
    assert (rates.prefill_text, rates.prefill) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("hidden", "element", "size"),
    # fp8: one float32 for each started block of 128
    [(2048, "bf16", 4096), (2048, "fp8", 2048 + 16 * 4), (7168, "fp8", 7392), (130, "fp8", 130 + 2 * 4)],
)
def test_bytes_of_a_copy(hidden, element, size):
    assert copy_bytes(hidden, element) == size


def test_tokens_of_two_groups_stay_in_their_groups():
    # 2 experts on 4 ranks: groups {0, 1} and {2, 3}; tokens at home on 0 and 3 with both experts each
    trace = trace_of([[[0, 1]], [[0, 1]]], num_experts=2)
    placement = ExpertPlacement(physical_to_logical_map=np.array([[0, 1]]), slot_rank=np.array([0, 1]), num_groups=2)
    traffic = count_traffic(trace, placement, np.array([0, 3]), deduplicate="rank")
    assert traffic.stages[0].tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]]
    assert traffic.slots.tolist() == [[1, 1, 1, 1]]
    assert traffic.expert_slots.tolist() == [[[1, 1], [1, 1]]]
    assert remote_tokens(trace, placement, np.array([0, 3])).all()
