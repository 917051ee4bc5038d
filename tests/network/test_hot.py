from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, star, topology
from hypothesis import given
from hypothesis import strategies as st

from smoes_sim.network import Network, exchange_time, link_load, phases_of
from smoes_sim.network.hot import hot_links, use_over_time
from smoes_sim.traffic.skewed import uniform_matrix, zipf_matrix


def on_star(ranks, *, latency="0 us"):
    return Network.on(topology(star(ranks, bandwidth="10 B/s", latency=latency)))


def load_of(network, phases):
    return np.sum([link_load(flows, network.topology.num_links) for flows in phases], axis=0)


def busiest(network, matrix, *, most=99, **options):
    phases = phases_of(network, [np.asarray(matrix, dtype=np.float64)], **options)
    result = exchange_time(network, phases, record_links=True)
    return hot_links(
        network, load_of(network, phases), duration=result.duration, most=most, link_use=result.link_use
    ), result


def test_equal_links_are_one_entry_for_each_direction():
    # 4 ranks, 16 MiB a pair at 50 GB/s: 3 * 16777216 / 50e9 s of work on each of 4 + 4 links
    network = Network.on(topology(star(4)))
    rows = [hot.to_dict() for hot in busiest(network, uniform_matrix(4, 64 * 2**20))[0]]
    assert [row["link"] for row in rows] == ["node*.device0 -> switch (x4)", "switch -> node*.device0 (x4)"]
    work = 3 * 16777216 / 50e9
    for row in rows:
        assert (row["kind"], row["count"], row["bytes"], row["capacity_Bps"]) == ("link", 4, 3 * 16777216, 50e9)
        assert (row["busy_s"], row["utilisation"]) == (pytest.approx(work), pytest.approx(1))
        assert (row["first_s"], row["last_s"], row["full_s"]) == (0, pytest.approx(work), pytest.approx(work))


def test_a_hot_receiver_is_named_and_the_rest_is_one_line():
    # everybody sends 10 B to rank 2: its port of 10 B/s needs 70 / 10 s; 7 of the 8 ways in carry 10 B each
    matrix = np.zeros((8, 8))
    matrix[:, 2] = 10
    hot, result = busiest(on_star(8), matrix)
    assert result.duration == pytest.approx(7)
    assert [(entry.group.label, entry.size) for entry in hot] == [
        ("switch -> node2.device0", 70),
        ("node*.device0 -> switch (7 of 8)", 10),
    ]
    assert (hot[0].full, hot[1].full) == (pytest.approx(7), 0)


def test_a_few_equal_links_are_named_one_by_one():
    matrix = np.zeros((8, 8))
    matrix[1, 4] = matrix[3, 6] = 10
    names = [entry.group.label for entry in busiest(on_star(8), matrix)[0]]
    assert sorted(names) == [f"node{rank}.device0 -> switch" for rank in (1, 3)] + [
        f"switch -> node{rank}.device0" for rank in (4, 6)
    ]


def test_numbers_that_do_not_differ_stay_in_the_name():
    # node 1 sends to node 0: all its NICs, and none of the others
    matrix = np.zeros((8, 8))
    matrix[4:, :4] = 1e6
    names = [entry.group.label for entry in busiest(Network.on(topology(NODES)), matrix)[0]]
    assert sorted(names) == ["fabric -> node0.nic* (x4)", "node1.nic* -> fabric (x4)"]


def test_links_come_into_use_get_full_and_fall_idle():
    # 0 -> 1 60 B, 0 -> 2 20 B, 3 -> 1 40 B at 10 B/s: until 4 s all flow at 5; then port 0 is half used until 3 -> 1 ends at
    # 8 s, and full again with the last 20 B until 10 s
    matrix = [[0, 60, 20, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 40, 0, 0]]
    hot, result = busiest(on_star(4), matrix)
    found = {entry.group.label: (entry.first, entry.last, entry.full) for entry in hot}
    assert found == {
        "switch -> node1.device0": pytest.approx((0, 10, 10)),
        "node0.device0 -> switch": pytest.approx((0, 10, 6)),
        "node3.device0 -> switch": pytest.approx((0, 8, 0)),
        "switch -> node2.device0": pytest.approx((0, 4, 0)),
    }
    port = next(entry.group.links for entry in hot if entry.group.label == "node0.device0 -> switch")
    steps = use_over_time(port, result.link_use, result.duration)
    assert np.array(steps) == pytest.approx(np.array([[0, 1], [4, 0.5], [8, 1], [10, 0], [10, 0]]))


def test_without_use_over_time_nothing_is_said_about_when():
    network = on_star(3)
    phases = phases_of(network, [np.ones((3, 3))])
    (hot, *_) = hot_links(network, load_of(network, phases), duration=4.0, most=1)
    assert (hot.first, hot.last, hot.full) == (None, None, None)
    assert hot.utilisation == pytest.approx(2 / 10 / 4)
    assert use_over_time(hot.group.links, (), 4.0) == []


def test_of_a_group_the_shortest_full_time_counts():
    network = on_star(3)
    phases = phases_of(network, [np.ones((3, 3))])
    ways_in = [link for link in range(6) if network.topology.link_name(link).endswith("switch")]
    use = [(float(moment), np.zeros(6)) for moment in range(5)]
    for link, last in zip(ways_in, (2, 3, 4), strict=True):
        for moment in range(1, last):
            use[moment][1][link] = 1.0
    both = hot_links(network, load_of(network, phases), duration=5.0, most=2, link_use=use)
    hot = next(entry for entry in both if "-> sw" in entry.group.name)
    assert (hot.first, hot.last, hot.full) == (1, 4, 1)


def test_nothing_sent_has_no_hot_link():
    assert hot_links(on_star(3), np.zeros(6), duration=0.0, most=5) == []


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("schedule", ["direct", "two_hop"])
def test_use_over_time_adds_up_to_the_bytes_of_each_link(kind, schedule):
    network = Network.on(topology(EVERY_KIND[kind]))
    R = network.topology.num_ranks
    hot, result = busiest(network, zipf_matrix(R, 1e8, exponent=1.0, seed=2, per_source=True), schedule=schedule)
    for entry in hot:
        steps = np.array(use_over_time(entry.group.links, result.link_use, result.duration))
        in_use = float(np.diff(steps[:, 0]) @ steps[:-1, 1])
        assert in_use * entry.capacity == pytest.approx(entry.size, rel=1e-4)
        assert 0 <= entry.first <= entry.last <= result.duration * (1 + 1e-9)
        assert entry.full <= entry.busy * (1 + 1e-9) / 0.999
        assert entry.utilisation <= 1 + 1e-9


@given(kind=st.sampled_from(sorted(EVERY_KIND)), seed=st.integers(0, 999), density=st.floats(0.05, 1))
def test_every_link_in_use_is_in_one_group_and_the_busiest_come_first(kind, seed, density):
    network = Network.on(topology(EVERY_KIND[kind]))
    rng = np.random.default_rng(seed)
    R = network.topology.num_ranks
    matrix = np.where(rng.random((R, R)) < density, rng.integers(1, 4, (R, R)) * 1e6, 0.0)
    phases = phases_of(network, [matrix])
    load = load_of(network, phases)
    hot = hot_links(network, load, duration=1.0, most=len(load))
    links = np.concatenate([np.empty(0, dtype=int), *(entry.group.links for entry in hot)])
    assert sorted(links) == np.flatnonzero(load).tolist()
    assert all(load[entry.group.links] == pytest.approx(entry.size, rel=1e-12) for entry in hot)
    assert all(network.capacity[entry.group.links] == pytest.approx(entry.capacity, rel=0) for entry in hot)
    busy = [entry.busy for entry in hot]
    assert busy == sorted(busy, reverse=True)
