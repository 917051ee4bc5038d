from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from build_from import star, topology

from smoes_sim.compute import AttentionTimes, ComputeTimes
from smoes_sim.models import ModelShape
from smoes_sim.models.image_tokens import FixedImageTokens
from smoes_sim.network import Network, phases_of
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, MicroBatch, step_time


def model_of(layers, **changes):
    """Only which layers are MoE matters here."""
    shape = {"experts": 2, "top_k": 1, "shared_experts": 1, "expert_ffn": 4, "dense_ffn": 4} | changes
    return ModelShape(
        name="toy",
        layers=layers,
        hidden=4,
        vocab=10,
        heads=1,
        kv_heads=1,
        head_dim=4,
        image_tokens=FixedImageTokens(kind="fixed", tokens=1),
        source="made up",
        image_source="made up",
        **shape,
    )


def network_of(ranks, *, latency=1, **constants):
    """A star of 1 B/s, so that bytes are seconds; a route crosses two links of ``latency`` seconds."""
    return Network.on(topology(star(ranks, bandwidth="1 B/s", latency=f"{latency} s")), **constants)


def layer_of(network, matrix):
    """Dispatch of a matrix of bytes, and combine of its transpose."""
    stage = np.array(matrix, dtype=np.float64)
    return LayerExchanges(dispatch=phases_of(network, [stage]), combine=phases_of(network, [stage.T]))


def times_of(ranks, layers=1, **parts):
    """Times that are zero except for the parts given."""
    names = ("attention", "gate", "shared", "dense", "head")
    values = {name: np.zeros(ranks) for name in names} | {"experts": np.zeros((layers, ranks))}
    values |= {name: np.array(value, dtype=float) for name, value in parts.items()}
    return ComputeTimes(**(values | {"attention": AttentionTimes.undivided(values["attention"])}))


def events(step, rank):
    """What a rank did, in order: (layer, name, start, end), rounded to whole milliseconds."""
    spans = sorted((span for span in step.spans if span.rank == rank), key=lambda span: (span.start, span.end))
    return [(span.layer, span.name, round(span.start, 3), round(span.end, 3)) for span in spans]


def timed(model, times, exchanges, network, **options):
    """A step of one micro-batch."""
    return step_time(model, [MicroBatch(times=times, exchanges=exchanges)], network, **options)


NETWORK = network_of(2)
EXCHANGES = [layer_of(NETWORK, [[0, 5], [3, 0]]), layer_of(NETWORK, [[9, 2], [0, 0]])]
TIMES = times_of(2, attention=[1, 2], gate=[1, 1], shared=[4, 4], head=[1, 1], experts=[[3, 6], [2, 1]])


def test_a_step_of_two_layers_by_hand():
    # bytes are seconds, 2 s of latency. Layer 0: rank 0 posts 5 B at 6: gone at 11, there at 13; rank 1 posts 3 B at 7:
    # gone at 10, there at 12. A rank is done when its own are gone and the others' are there: 12 and 13.
    # Combine: rank 0 posts 3 B at 15: gone 18, there 20; rank 1 posts 5 B at 19: gone 24, there 26.
    # Layer 1: only rank 0 sends, 2 B at 32 (its 9 B to itself do not travel): gone 34, there 36; back 2 B at 37: 39, 41.
    step = timed(model_of(2), TIMES, EXCHANGES, NETWORK)
    assert events(step, 0) == [
        (0, "attention", 0, 1),
        (0, "gate", 1, 2),
        (0, "shared", 2, 6),
        (0, "dispatch", 6, 12),
        (0, "experts", 12, 15),
        (0, "combine", 15, 26),
        (1, "attention", 26, 27),
        (1, "gate", 27, 28),
        (1, "shared", 28, 32),
        (1, "dispatch", 32, 34),
        (1, "experts", 34, 36),
        (1, "combine", 36, 41),
        (2, "head", 41, 42),
    ]
    assert events(step, 1) == [
        (0, "attention", 0, 2),
        (0, "gate", 2, 3),
        (0, "shared", 3, 7),
        (0, "dispatch", 7, 13),
        (0, "experts", 13, 19),
        (0, "combine", 19, 24),
        (1, "attention", 24, 26),
        (1, "gate", 26, 27),
        (1, "shared", 27, 31),
        (1, "dispatch", 31, 36),
        (1, "experts", 36, 37),
        (1, "combine", 37, 39),
        (2, "head", 39, 40),
    ]
    assert step.finish == pytest.approx([42, 40])
    assert step.duration == pytest.approx(42)


def test_the_same_step_with_shared_experts_while_tokens_travel():
    # dispatch starts before the shared experts: rank 0 posts 5 B at 2 (gone 7, there 9), rank 1 3 B at 3 (6, 8)
    # layer 0: dispatch done at 8 and 9, shared at 6 and 7; combine 3 B at 11 (14, 16), 5 B at 15 (20, 22)
    # layer 1: 2 B at 24 (26, 28); dispatch of rank 0 done at 26 but its shared experts at 28; back 2 B at 29 (31, 33)
    step = timed(model_of(2), TIMES, EXCHANGES, NETWORK, overlap="shared_expert")
    assert events(step, 0) == [
        (0, "attention", 0, 1),
        (0, "gate", 1, 2),
        (0, "shared", 2, 6),
        (0, "dispatch", 2, 8),
        (0, "experts", 8, 11),
        (0, "combine", 11, 22),
        (1, "attention", 22, 23),
        (1, "gate", 23, 24),
        (1, "dispatch", 24, 26),
        (1, "shared", 24, 28),
        (1, "experts", 28, 30),
        (1, "combine", 30, 33),
        (2, "head", 33, 34),
    ]
    assert events(step, 1) == [
        (0, "attention", 0, 2),
        (0, "gate", 2, 3),
        (0, "shared", 3, 7),
        (0, "dispatch", 3, 9),
        (0, "experts", 9, 15),
        (0, "combine", 15, 20),
        (1, "attention", 20, 22),
        (1, "gate", 22, 23),
        (1, "shared", 23, 27),
        (1, "dispatch", 23, 28),
        (1, "experts", 28, 29),
        (1, "combine", 29, 31),
        (2, "head", 31, 32),
    ]
    assert step.finish == pytest.approx([34, 32])


def test_without_a_cost_only_the_waiting_for_each_other_is_left():
    # no latency, no bytes-time. Layer 0: dispatch done at 7 for both, experts until 10 and 13, combine 13 for both;
    # layer 1: rank 0 is ready at 19, rank 1 at 20 and has what it waits for; experts until 21 and 21; heads until 22
    free = NETWORK.at_no_cost()
    step = timed(model_of(2), TIMES, [layer.at_no_cost() for layer in EXCHANGES], free)
    assert step.finish == pytest.approx([22, 22])
    assert [event for event in events(step, 0) if event[1] == "combine"] == [(0, "combine", 10, 13), (1, "combine", 21, 21)]


def test_sizes_of_exchange_spans_are_the_bytes_that_the_rank_sends():
    step = timed(model_of(2), TIMES, EXCHANGES, NETWORK)
    sizes = {(span.layer, span.name, span.rank): span.size for span in step.spans if span.size}
    assert sizes == {
        (0, "dispatch", 0): 5,
        (0, "dispatch", 1): 3,
        (0, "combine", 0): 3,
        (0, "combine", 1): 5,
        (1, "dispatch", 0): 2,
        (1, "combine", 1): 2,
    }


def test_a_straggler_holds_up_only_those_who_wait_for_it():
    # 0 and 1 exchange 1 B, 2 and 3 too; rank 3 computes 100 s longer in attention. Everybody: attention 1, dispatch
    # 1 + 2, experts 1, combine 1 + 2, so 8 s. With rank 3 late: its own token is gone at 102 and that of 2 there long
    # ago, so it works until 103 and its answer reaches 2 at 106. Rank 2 has the token at 104, works until 105, its answer
    # is gone at 106 and there at 108.
    network = network_of(4)
    pairs = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    model, layer = model_of(1), layer_of(network, pairs)
    even = times_of(4, attention=[1, 1, 1, 1], experts=[[1, 1, 1, 1]])
    assert timed(model, even, [layer], network).finish == pytest.approx([8, 8, 8, 8])
    late = replace(even, attention=AttentionTimes.undivided(np.array([1.0, 1, 1, 101])))
    assert timed(model, late, [layer], network).finish == pytest.approx([8, 8, 106, 108])


def test_a_straggler_behind_one_sender_passes_its_delay_on_with_the_tokens():
    # a chain 0 -> 1 -> 2 in dispatch and back in combine: rank 0 starts 10 s late.
    # Rank 1 gets its token at 11 + 2, works until 14, answers: gone 15, there 17. Rank 2 waits for rank 1 alone: its token
    # arrives at 1 + 2, work until 4, answer gone 5 and there 7. Rank 1 is done when its answer to 0 is gone: 15.
    network = network_of(3)
    layer = layer_of(network, [[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    times = times_of(3, attention=[10, 0, 0], experts=[[1, 1, 1]])
    assert timed(model_of(1), times, [layer], network).finish == pytest.approx([17, 15, 5])


def test_ranks_that_send_nothing_do_not_wait():
    network = network_of(2)
    times = times_of(2, layers=2, attention=[1, 5], experts=[[1, 1], [1, 1]], head=[1, 1])
    step = timed(model_of(2), times, [layer_of(network, np.zeros((2, 2)))] * 2, network)
    assert step.finish == pytest.approx([5, 13])


def test_dense_layers_take_the_place_of_experts():
    # layers 0 and 2 dense, 1 and 3 MoE
    network = network_of(1)
    times = times_of(1, attention=[1], gate=[10], shared=[100], dense=[1000], experts=[[0.25], [0.5]])
    step = timed(model_of(4, moe_every=2), times, [layer_of(network, [[0]])] * 2, network)
    assert step.duration == pytest.approx(4 * 1 + 2 * 110 + 2 * 1000 + 0.75)
    names = [name for _, name, _, _ in events(step, 0) if name not in {"dispatch", "combine"}]
    assert names == ["attention", "dense", "attention", "gate", "shared", "experts"] * 2


def test_a_dense_model_never_exchanges():
    model = model_of(3, experts=0, top_k=0, shared_experts=0, expert_ffn=0)
    network = network_of(2, per_exchange=100.0)
    step = timed(model, times_of(2, attention=[1, 2], dense=[3, 3], head=[1, 0]), [], network)
    assert step.finish == pytest.approx([13, 15])
    assert {span.name for span in step.spans} == {"attention", "dense", "head"}


def test_software_time_is_paid_per_exchange_even_when_empty_and_per_message():
    # an exchange costs 0.5 s to enter whatever it sends: dispatch and combine of one layer
    idle = network_of(2, per_exchange=0.5)
    step = timed(model_of(1), times_of(2), [layer_of(idle, np.zeros((2, 2)))], idle)
    assert step.finish == pytest.approx([1, 1])
    # two messages of 1 B to two ranks, 0.25 s each before it goes. Rank 0 posts at 0: the first goes at 0.25, the second
    # at 0.5; both share the port: 0.25 B of the first alone, then half speed until it is gone at 0.5 + 2 * 0.75 = 2,
    # the second then has 0.25 B left: 2.25. The others wait for theirs: first at 2 + 2, second at 2.25 + 2.
    busy = network_of(3, per_message=0.25)
    layer = LayerExchanges(dispatch=phases_of(busy, [np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=float)]), combine=[])
    assert timed(model_of(1), times_of(3), [layer], busy).finish == pytest.approx([2.25, 4, 4.25])


def test_two_batches_share_device_and_network_so_that_one_computes_while_the_other_travels():
    # two equal ranks; each batch: 1 s of attention, 4 B each way (4 s and 2 of latency alone), 3 s of experts
    # batch A: attention 0-1, dispatch from 1; batch B: attention 1-2, dispatch from 2. A has 3 B left at 2; both share the
    # port: A is gone at 2 + 2 * 3 = 8, there at 10; B has 4 - 3 = 1 left at 8: gone at 9, there at 11
    # experts of A 10-13, of B 13-16 (the device is taken); combine of A 13-16 alone: 3 of 4 B gone at 16, the last shares:
    # gone at 18, there at 20; B has 4 - 1 left at 18: gone at 21, there at 23
    network = network_of(2)
    times = times_of(2, attention=[1, 1], experts=[[3, 3]])
    batches = [MicroBatch(times=times, exchanges=[layer_of(network, [[0, 4], [4, 0]])]) for _ in range(2)]
    step = step_time(model_of(1), batches, network, overlap="two_batch")
    assert step.finish == pytest.approx([23, 23])
    assert events(step, 0) == [
        (0, "attention", 0, 1),
        (0, "attention", 1, 2),
        (0, "dispatch", 1, 10),
        (0, "dispatch", 2, 11),
        (0, "experts", 10, 13),
        (0, "experts", 13, 16),
        (0, "combine", 13, 20),
        (0, "combine", 16, 23),
    ]
    # one after the other they would take 2 * (1 + 6 + 3 + 6) = 32 s
    whole = [timed(model_of(1), times, batch.exchanges, network).duration for batch in batches]
    assert sum(whole) == pytest.approx(32)


def group_of(network, matrix):
    stage = np.array(matrix, dtype=np.float64)
    return GroupExchanges(gather=phases_of(network, [stage]), scatter=phases_of(network, [stage.T]))


def test_ranks_of_a_group_gather_before_attention_and_scatter_behind_it():
    # gather: rank 0 sends 4 B, gone at 4 and there at 6; rank 1 2 B, gone at 2 and there at 4: done at 4 and 6.
    # attention until 5 and 7. Scatter: rank 0 2 B at 5, gone 7, there 9; rank 1 4 B at 7, gone 11, there 13: done at 13
    # and 11, then 1 s of dense layer
    beside_experts = model_of(1, dense_layers=1)
    network = network_of(2)
    batch = MicroBatch(
        times=times_of(2, attention=[1, 1], dense=[1, 1]), exchanges=[], group=group_of(network, [[0, 4], [2, 0]])
    )
    step = step_time(beside_experts, [batch], network)
    assert step.finish == pytest.approx([14, 12])
    # a dense model gathers for its feed-forward layer as well: 4 B from 13 gone at 17, there at 19, 2 B from 11 there at 15:
    # dense until 18 and 20; 2 B back at 18 there at 22, 4 B at 20 gone at 24, there at 26
    dense = model_of(1, experts=0, top_k=0, shared_experts=0, expert_ffn=0)
    assert step_time(dense, [batch], network).finish == pytest.approx([26, 24])
    assert events(step, 0) == [
        (0, "gather", 0, 4),
        (0, "attention", 4, 5),
        (0, "scatter", 5, 13),
        (0, "dense", 13, 14),
    ]


def test_experts_may_travel_on_a_network_of_their_own():
    # as above, then a MoE layer whose exchange costs nothing there: both meet at 13 in dispatch, experts until 16
    network = network_of(2)
    layer = layer_of(network, [[0, 5], [3, 0]])
    batch = MicroBatch(
        times=times_of(2, attention=[1, 1], experts=[[3, 3]]),
        exchanges=[layer.at_no_cost()],
        group=group_of(network, [[0, 4], [2, 0]]),
    )
    step = step_time(model_of(1), [batch], network, expert_network=network.at_no_cost())
    assert step.finish == pytest.approx([16, 16])


def test_experts_on_a_network_of_their_own_pay_its_software_and_not_that_of_the_other():
    # attention 1 s and experts 3 s; dispatch and combine are free there. Here each would cost 2 s to enter and 1 s a message
    network = network_of(2, per_exchange=2.0, per_message=1.0)
    layer = layer_of(network, [[0, 5], [3, 0]])
    times = times_of(2, attention=[1, 1], experts=[[3, 3]])
    step = timed(model_of(1), times, [layer.at_no_cost()], network, expert_network=network.at_no_cost())
    assert step.finish == pytest.approx([4, 4])
    assert timed(model_of(1), times, [layer.at_no_cost()], network).finish == pytest.approx([10, 10])


def test_shared_experts_come_before_dispatch_when_two_batches_overlap():
    # only shared_expert computes them while tokens travel: the steps by hand above, first and second
    step = timed(model_of(2), TIMES, EXCHANGES, NETWORK, overlap="two_batch")
    assert step.finish == pytest.approx([42, 40])


def test_results_wait_until_their_receiver_is_ready_for_them():
    # rank 0 has nothing to compute; its 10 B for rank 1 leave when that has computed for 5 s and enters combine
    network = network_of(2, latency=0)
    exchanges = [layer_of(network, [[0, 0], [10, 0]])]
    step = timed(model_of(1), times_of(2, experts=[[0, 5]]), exchanges, network)
    assert step.duration == pytest.approx(10 + 10)
    late = timed(model_of(1), times_of(2, attention=[0, 5]), exchanges, network)
    assert late.duration == pytest.approx(5 + 10 + 10)


def test_ranks_of_one_machine_compute_in_turns():
    network = network_of(3, latency=0)
    times = times_of(3, attention=[2, 2, 2])
    model = model_of(1, experts=0, top_k=0, shared_experts=0, expert_ffn=0)
    assert timed(model, times, [], network).duration == 2
    assert timed(model, times, [], network, shared_cores=2).duration == pytest.approx(3)
