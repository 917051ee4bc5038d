from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, PODS, RACKS, SOCKETS, TREE, graph, topology

from smoes_sim.errors import ConfigError
from smoes_sim.topology import Router

INCAST = "incast: {flows: 8, efficiency: 0.75, source: made up for a test}"


def limited(built):
    """Ends of the links that deliver less to many flows -> (flows, efficiency)."""
    return {
        (built.vertex_names[built.link_source[link]], built.vertex_names[built.link_target[link]]): (
            built.incast_flows[link],
            built.incast_efficiency[link],
        )
        for link in np.flatnonzero(np.isfinite(built.incast_flows)).tolist()
    }


@pytest.mark.parametrize("name", EVERY_KIND)
def test_without_incast_every_link_delivers_all_of_its_capacity_to_any_number_of_flows(name):
    built = topology(EVERY_KIND[name])
    np.testing.assert_array_equal(built.incast_flows, np.full(built.num_links, np.inf))
    np.testing.assert_array_equal(built.incast_efficiency, np.ones(built.num_links))
    assert not built.incast_flows.flags.writeable


def test_on_a_star_it_is_the_link_from_the_switch_that_delivers_less():
    built = topology(f"{{kind: star, ranks: 3, link: {{bandwidth: 1 GB/s, {INCAST}}}}}")
    assert limited(built) == {("switch", f"node{rank}.device0"): (8.0, 0.75) for rank in range(3)}
    # capacity itself, and so the bound, stays as it is
    assert set(built.link_bandwidth.tolist()) == {1e9}


@pytest.mark.parametrize(
    ("text", "above"),
    [
        (EVERY_KIND["two_level"], {"fabric"}),
        (EVERY_KIND["two_level_thin"], {"node0.leaf", "node1.leaf"}),
        (EVERY_KIND["two_level_shared_nic"], {"fabric"}),
        (RACKS, {"fabric"}),
        (PODS, {f"pod{pod}.rail{rail}" for pod in (0, 1) for rail in (0, 1)}),
        (TREE, {f"level1.group{group}.switch{number}" for group in (0, 1) for number in (0, 1)}),
    ],
)
def test_a_nic_receives_less_from_its_leaf_and_sends_all(text, above):
    built = topology(text.replace("bandwidth: 50 GB/s", f"bandwidth: 50 GB/s, {INCAST}"))
    found = limited(built)
    into_nics = {
        (built.vertex_names[a], built.vertex_names[b])
        for a, b in zip(built.link_source.tolist(), built.link_target.tolist(), strict=True)
        if built.vertex_kinds[a] == "switch" and built.vertex_kinds[b] == "nic"
    }
    assert found == dict.fromkeys(into_nics, (8.0, 0.75))
    assert {source for source, _ in found} == above


def test_the_nic_of_a_pcie_tree_is_the_link_from_the_fabric():
    built = topology(SOCKETS.replace("bandwidth: 10 GB/s", f"bandwidth: 10 GB/s, {INCAST}"))
    assert limited(built) == {("fabric", f"node{node}.socket0"): (8.0, 0.75) for node in (0, 1)}


def test_a_link_of_a_graph_is_limited_towards_its_device_or_nic_whichever_way_it_is_written():
    built = topology(
        graph("a, b, c", f"a s, {INCAST}", f"s b, {INCAST}", "n c", f"s n, {INCAST}, duplex: false", "n s, duplex: false",
              nics="n", switches="s")
    )  # fmt: skip
    assert limited(built) == dict.fromkeys([("s", "a"), ("s", "b"), ("s", "n")], (8.0, 0.75))


def test_of_parallel_links_each_has_its_own_limit():
    built = topology(graph("a, b", f"a s, {INCAST}", f"a s, {INCAST.replace('8', '4')}", "a s", "b s", switches="s"))
    down = np.flatnonzero(built.link_target == 0)
    assert built.incast_flows[down].tolist() == [8.0, 4.0, np.inf]


def test_routes_do_not_depend_on_incast():
    source, destination = np.array([0, 1]), np.array([6, 5])
    plain, with_incast = (topology(PODS.replace("50 GB/s", f"50 GB/s{more}")) for more in ("", f", {INCAST}"))
    routes = [Router(built).compile(source, destination).links for built in (plain, with_incast)]
    np.testing.assert_array_equal(*routes)


@pytest.mark.parametrize(
    ("incast", "expected"),
    [
        ("{flows: 0, efficiency: 0.5, source: x}", r"incast\.flows = 0: input should be greater than or equal to 1"),
        ("{flows: 2, efficiency: 0, source: x}", r"incast\.efficiency = 0: input should be greater than 0"),
        ("{flows: 2, efficiency: 1.5, source: x}", r"incast\.efficiency = 1\.5: input should be less than or equal to 1"),
        ("{flows: 2, efficiency: 0.5, source: ''}", r"incast\.source = .*at least 1 character"),
        ("{flows: 2, efficiency: 0.5}", r'the key "source" is missing in link\.incast'),
        ("{flows: 2, source: x}", r'the key "efficiency" is missing in link\.incast'),
        ("{efficiency: 0.5, source: x}", r'the key "flows" is missing in link\.incast'),
    ],
)
def test_a_limit_without_all_of_its_fields_or_out_of_range_is_refused(incast, expected):
    with pytest.raises(ConfigError, match=rf"^test\.yaml:\d+:\d+: .*{expected}"):
        topology(f"kind: star\nranks: 2\nlink: {{bandwidth: 1 GB/s, incast: {incast}}}\n")


@pytest.mark.parametrize(
    "link",
    ["s t", "a n", "a s, duplex: false", "s a, sharing: fatpipe", "a b"],
)
def test_a_link_that_leads_from_no_switch_to_a_receiver_has_no_incast(link):
    ends = link.split(",")[0].split()
    with pytest.raises(
        ConfigError, match=rf'incast on the link from "{ends[0]}" to "{ends[1]}": it belongs to a shared link'
    ):
        topology(graph("a, b", "a s", "b s", f"{link}, {INCAST}", nics="n", switches="s, t"))


@pytest.mark.parametrize("kind", ["mesh", "torus"])
def test_links_between_equals_have_no_incast(kind):
    text = EVERY_KIND[kind].replace("latency: 1 us", INCAST)
    with pytest.raises(ConfigError, match='unknown key "incast"'):
        topology(text)
