"""Traffic counted token by token, slot by slot: slow and obvious."""

from __future__ import annotations

import numpy as np


def count_copies(expert_ids, expert_rank, home, *, deduplicate, node_of_rank=None):
    """Copies from rank to rank in each stage of dispatch, a list of arrays (L, R, R), as a loop over tokens.

    ``expert_ids`` (T, L, K), ``expert_rank`` (L, E), ``home`` (T,), ``node_of_rank`` (R,) for ``node``.
    """
    num_tokens, num_layers, _ = np.shape(expert_ids)
    num_ranks = int(np.max(expert_rank)) + 1
    stages = [np.zeros((num_layers, num_ranks, num_ranks), dtype=int) for _ in range(2 if deduplicate == "node" else 1)]
    for token in range(num_tokens):
        source = int(home[token])
        for layer in range(num_layers):
            wanted = [int(expert_rank[layer][expert]) for expert in expert_ids[token][layer] if expert >= 0]
            if deduplicate == "none":
                for rank in wanted:
                    stages[0][layer, source, rank] += 1
            elif deduplicate == "rank":
                for rank in set(wanted):
                    stages[0][layer, source, rank] += 1
            else:
                for node in {node_of_rank[rank] for rank in wanted}:
                    entry = source
                    if node != node_of_rank[source]:
                        entry = same_index(source, node, node_of_rank)
                        stages[0][layer, source, entry] += 1
                    for rank in {rank for rank in wanted if node_of_rank[rank] == node}:
                        stages[1][layer, entry, rank] += 1
    return stages


def same_index(rank, node, node_of_rank):
    """The rank of ``node`` at the place that ``rank`` has in its own node; in a smaller node the places start over."""
    place = [other for other in range(len(node_of_rank)) if node_of_rank[other] == node_of_rank[rank]].index(rank)
    members = [other for other in range(len(node_of_rank)) if node_of_rank[other] == node]
    return members[place % len(members)]


def remote_share(expert_ids, expert_rank, home, chosen):
    """Share of the (token, layer) pairs of the chosen tokens that need another rank than home."""
    needs = []
    for token in chosen:
        for layer in range(np.shape(expert_ids)[1]):
            ranks = {int(expert_rank[layer][expert]) for expert in expert_ids[token][layer] if expert >= 0}
            needs.append(bool(ranks - {int(home[token])}))
    return sum(needs) / len(needs)
