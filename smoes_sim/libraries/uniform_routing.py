"""Expected number of nodes and ranks that a token visits under uniformly random routing."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Visits(NamedTuple):
    """Expected number of distinct nodes and ranks that hold the experts of a token, its own included."""

    nodes: float
    ranks: float


@lru_cache(maxsize=1024)
def expected_visits(*, nodes: int, ranks_per_node: int, experts: int, top_k: int, node_limit: int | None = None) -> Visits:
    """Expected number of distinct nodes and ranks of a token's K experts under random scores; exact.

    Experts are drawn in the order of their scores, each one equally likely to be next. A draw hits a rank that was hit
    before, a new rank of a node that was hit before, or a new node, so (nodes, ranks) is a Markov chain. With a limit of M
    nodes the nodes with the highest scores are kept, as in DeepSeek's routers: the first M that are drawn; later draws
    are among their experts.

    Example:
        256 experts, top-8, on 2 nodes of 8 ranks; then on 8 nodes with a limit of 4. Four nodes drawn regardless of the
        scores would be 3.629 of them.

        >>> visits = expected_visits(nodes=2, ranks_per_node=8, experts=256, top_k=8)
        >>> round(visits.nodes, 3), round(visits.ranks, 3)
        (1.993, 6.523)
        >>> limited = expected_visits(nodes=8, ranks_per_node=8, experts=256, top_k=8, node_limit=4)
        >>> round(limited.nodes, 3)
        3.983
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
