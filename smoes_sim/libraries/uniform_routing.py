"""Tokens that choose experts at random: how many nodes and ranks they visit."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Visits(NamedTuple):
    """Expected distinct places that hold the experts of one token, its own included."""

    nodes: float
    ranks: float


@lru_cache(maxsize=1024)
def expected_visits(*, nodes: int, ranks_per_node: int, experts: int, top_k: int, node_limit: int | None = None) -> Visits:
    """Distinct nodes and ranks of a token's K experts under random scores; exact.

    Experts come in the order of their scores, each one equally likely to be next. A draw meets a rank that was met, a
    new rank of a node that was met, or a new node, so (nodes, ranks) is a Markov chain. With a limit the nodes of the
    highest scores are kept, as DeepSeek's routers do: those are the first M that come up, and later draws are from them.

    Example:
        256 experts, top-8: 1.993 of 2 nodes, 3.614 of 4; 5.295 of 8 ranks, 7.676 of 64. 8 nodes with a limit of 4:
        3.983 (four nodes drawn without looking at the scores, that is 128 experts on 4 nodes, would be 3.629).
    """
    limit = min(nodes, node_limit or nodes)
    per_rank = experts / (nodes * ranks_per_node)
    states = {(0, 0): 1.0}
    for drawn in range(top_k):
        following: dict[tuple[int, int], float] = {}
        for (met_nodes, met_ranks), probability in states.items():
            same = max(met_ranks * per_rank - drawn, 0.0)
            rank = (met_nodes * ranks_per_node - met_ranks) * per_rank
            node = (nodes - met_nodes) * ranks_per_node * per_rank if met_nodes < limit else 0.0
            for step, ways in (((0, 0), same), ((0, 1), rank), ((1, 1), node)):
                if ways > 0:
                    state = (met_nodes + step[0], met_ranks + step[1])
                    following[state] = following.get(state, 0.0) + probability * ways / (same + rank + node)
        states = following
    return Visits(
        sum(probability * state[0] for state, probability in states.items()),
        sum(probability * state[1] for state, probability in states.items()),
    )
