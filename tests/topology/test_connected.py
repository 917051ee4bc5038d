from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from smoes_sim.topology.connected import joined_groups


def random_links(rng, *, ranks, switches, share_back):
    """Links from anywhere to switches and back, some of them only one way."""
    num_links = int(rng.integers(ranks, 3 * (ranks + switches)))
    ends = np.column_stack(
        [rng.integers(ranks + switches, size=num_links), rng.integers(ranks, ranks + switches, num_links)]
    )
    back = ends[rng.random(num_links) < share_back, ::-1]
    return np.concatenate([ends, back]).T


@pytest.mark.parametrize("share_back", [1.0, 0.7])
@pytest.mark.parametrize("seed", range(12))
def test_ranks_reach_each_other_where_networkx_finds_a_path_through_switches(seed, share_back):
    rng = np.random.default_rng(seed)
    ranks, switches = int(rng.integers(1, 8)), int(rng.integers(1, 25))
    source, target = random_links(rng, ranks=ranks, switches=switches, share_back=share_back)
    group, joined = joined_groups(source, target, num_ranks=ranks, num_vertices=ranks + switches)
    for a in range(ranks):
        through = nx.DiGraph(
            (s, t) for s, t in zip(source.tolist(), target.tolist(), strict=True) if s >= ranks or s == a
        )  # only rank a sends; switches forward
        through.add_nodes_from(range(ranks))
        reached = nx.descendants(through, a)
        for b in set(range(ranks)) - {a}:
            assert joined[group[a], group[b]] == (b in reached)


def test_switches_in_a_long_row_are_one_part():
    # ranks 0 and 1 at the ends of a row of 1,000 switches, links in both directions
    row = [0, *np.random.default_rng(0).permutation(np.arange(2, 1002)).tolist(), 1]
    onward = np.array(list(itertools.pairwise(row)))
    ends = np.concatenate([onward, onward[:, ::-1]]).T
    group, joined = joined_groups(*ends, num_ranks=2, num_vertices=1002)
    assert joined[np.ix_(group, group)].all()
