from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from reference import all_pairs, check_route, hops_by_networkx

from smoes_sim.errors import ConfigError, TopologyError
from smoes_sim.topology import Router, find_spec, find_topology, topology_names
from smoes_sim.topology.shipped import folder, topology_headings
from smoes_sim.yaml_files import Document

shipped = functools.cache(find_topology)
every_topology = pytest.mark.parametrize("name", topology_names())
SIZES_ONLY = {"nodes", "racks"}
"""Counts that only set the size of an example need no source (topologies/README.md)."""
RANKS = {
    "two-orin-10gbe": 2,
    "8x-h100": 8,
    "2x8-h100-ndr400": 16,
    "gb200-nvl72-x8": 8 * 72,
    "gb200-nvl72-x16-64": 16 * 64,
    "h100-rail-128-4to1": 128 * 8,
    "h100-fat-128": 128 * 8,
    "tpu-v5p-8x8x8": 512,
    "dragonfly-slingshot-128": 4 * 8 * 4,
}


def data_of(name):
    path = folder() / f"{name}.yaml"
    return Document(path.read_text(encoding="utf-8"), name=path.name).data


def quantities(node, place=()):
    """Dotted paths of every number and every number with a unit."""
    if isinstance(node, dict):
        for key, value in node.items():
            if place or key not in {"sources", "description"}:
                yield from quantities(value, (*place, key))
    elif isinstance(node, list) and not all(isinstance(value, int) for value in node):
        for index, value in enumerate(node):
            yield from quantities(value, (*place, str(index)))
    elif not isinstance(node, str) or re.match(r"[\d.]+ \S+$", node):
        yield ".".join(place)


@every_topology
def test_every_shipped_topology_joins_its_ranks_by_shortest_routes(name):
    built = shipped(name)
    assert built.name == name
    source, destination = all_pairs(built.num_ranks)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(source))[:200]
    sources = rng.choice(built.num_ranks, 2, replace=False)
    pairs = np.concatenate([np.column_stack([source, destination])[chosen], [sources]])
    routes = Router(built).compile(pairs[:, 0], pairs[:, 1])
    for flow, (a, b) in enumerate(pairs.tolist()):
        check_route(built, a, b, routes.of(flow))
    for rank in sources.tolist():
        others = np.setdiff1d(np.arange(built.num_ranks), [rank])
        hops = hops_by_networkx(built, rank)
        lengths = np.diff(Router(built).compile(np.full(len(others), rank), others).offsets)
        assert dict(zip(others.tolist(), lengths.tolist(), strict=True)) == hops


def test_headings_are_those_of_the_whole_files():
    whole = {name: (spec.kind, spec.description) for name in topology_names() for spec in [find_spec(name)]}
    assert topology_headings() == whole


@every_topology
def test_every_quantity_of_a_shipped_topology_has_a_source(name):
    data = data_of(name)
    found = set(quantities(data))
    assert any(path.endswith("bandwidth") for path in found)
    assert found - set(data["sources"]) <= SIZES_ONLY
    assert all(len(source.split()) > 1 for source in data["sources"].values())


@every_topology
def test_every_source_of_a_shipped_topology_is_of_something_in_the_file(name):
    data = data_of(name)
    assert set(data["sources"]) <= set(quantities(data))


@every_topology
def test_every_shipped_topology_says_in_words_what_it_is(name):
    assert len(find_spec(name).description.split()) >= 4


@pytest.mark.parametrize("name", RANKS)
def test_shipped_topologies_have_the_ranks_of_their_name(name):
    assert shipped(name).num_ranks == RANKS[name]


def test_the_readme_lists_every_shipped_topology_with_its_kind_and_ranks():
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| .+ \| (\d+) \|.*\|$", (folder() / "README.md").read_text(), re.M)
    built = {name: shipped(name) for name in topology_names()}
    assert {row[0]: row[1:] for row in rows} == {
        name: (topology.kind, str(topology.num_ranks)) for name, topology in built.items()
    }


def test_oversubscribed_networks_differ_from_the_full_one_only_above_the_leaves():
    for family in ("h100-rail-128", "h100-fat-128"):
        full, thin = shipped(family), shipped(f"{family}-4to1")

        def above(topology):
            """Capacity of the links that enter the top switches."""
            top = [name.startswith(("spine", "level2")) for name in topology.vertex_names]
            return topology.link_bandwidth[np.array(top)[topology.link_target]].sum()

        # 1024 NICs of 50 GB/s; a quarter of that is left
        assert above(full) == pytest.approx(1024 * 50e9)
        assert above(thin) == pytest.approx(1024 * 50e9 / 4)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r'^topology "8x-h10" is neither shipped nor a file\. Did you mean "8x-h100"\?$'):
        find_topology("8x-h10")


def test_a_file_of_ones_own_is_found_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: star\nranks: 3\nlink: {bandwidth: 1 GB/s}\n")
    built = find_topology(str(path))
    assert (built.name, built.num_ranks) == ("mine", 3)


def test_a_broken_file_of_ones_own_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: graph\ndevices: [a, b]\nlinks: []\n")
    with pytest.raises(TopologyError, match=rf"^{re.escape(str(path))}: mine: rank 0 \(a\) has no route to rank 1 \(b\)"):
        find_topology(str(path))
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        find_topology(str(tmp_path / "none.yaml"))
