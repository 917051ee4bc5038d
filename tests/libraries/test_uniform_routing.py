import math

import numpy as np
import pytest

from smoes_sim.libraries.uniform_routing import expected_visits


def drawn_at_random(experts: int, places: int) -> float:
    """Distinct places of 8 experts out of all, by counting: places * (1 - C(others, 8) / C(all, 8))."""
    return places * (1 - math.comb(experts - experts // places, 8) / math.comb(experts, 8))


@pytest.mark.parametrize(("nodes", "visited"), [(2, 1.993), (4, 3.614)])
def test_nodes_of_a_token(nodes: int, visited: float) -> None:
    found = expected_visits(nodes=nodes, ranks_per_node=8, experts=256, top_k=8).nodes
    assert found == pytest.approx(drawn_at_random(256, nodes), rel=1e-12)
    assert round(found, 3) == visited


@pytest.mark.parametrize(("nodes", "visited"), [(1, 5.295), (2, 6.523), (4, 7.267), (8, 7.676)])
def test_ranks_of_a_token(nodes: int, visited: float) -> None:
    found = expected_visits(nodes=nodes, ranks_per_node=8, experts=256, top_k=8).ranks
    assert found == pytest.approx(drawn_at_random(256, 8 * nodes), rel=1e-12)
    assert round(found, 3) == visited


def test_a_limit_keeps_the_nodes_of_the_highest_scores() -> None:
    limited = expected_visits(nodes=8, ranks_per_node=8, experts=256, top_k=8, node_limit=4)
    # Four nodes drawn without a look at the scores hold 128 experts: 3.629 of them are visited.
    assert round(drawn_at_random(128, 4), 3) == 3.629
    scores = np.random.default_rng(0).random((4000, 8, 32))
    kept = np.argsort(-scores.max(axis=2), axis=1)[:, :4]
    masked = np.full_like(scores, -1.0)
    np.put_along_axis(masked, kept[:, :, None], np.take_along_axis(scores, kept[:, :, None], axis=1), axis=1)
    best = np.argsort(-masked.reshape(4000, -1), axis=1)[:, :8]
    counted_nodes = np.mean([len(set(row)) for row in best // 32])
    counted_ranks = np.mean([len(set(row)) for row in best // 4])
    assert limited.nodes == pytest.approx(counted_nodes, abs=0.01)
    assert limited.ranks == pytest.approx(counted_ranks, abs=0.05)


def test_a_limit_of_all_nodes_has_no_effect() -> None:
    free, limited = (expected_visits(nodes=4, ranks_per_node=8, experts=256, top_k=8, node_limit=m) for m in (None, 4))
    assert free == limited


def test_one_expert_visits_one_place() -> None:
    assert expected_visits(nodes=3, ranks_per_node=2, experts=12, top_k=1) == (1.0, 1.0)
