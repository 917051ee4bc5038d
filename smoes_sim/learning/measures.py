"""Traffic and routing figures of a trained model's trace. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smoes_sim.learning.unit_result import ExpertOrder, PlacementTraffic, RoutedSetResult
from smoes_sim.placement import TOKEN_RULES, ExpertPlacement, home_tokens
from smoes_sim.routing import RoutingTrace, expert_counts, modality_specialisation, text_share
from smoes_sim.traffic.copies import copy_bytes, count_traffic, transmission_rate

EXPERT_ORDERS: tuple[ExpertOrder, ...] = ("contiguous", "bins")


def place_by_counts(training_counts: NDArray[np.float64], *, experts: ExpertOrder, num_ranks: int) -> ExpertPlacement:
    """Placement with equally many experts per rank, decided by training counts alone.

    Args:
        training_counts: Text and vision tokens at each expert, shape (L, M, E).
        experts: ``bins`` sorts each layer by the text share of its counts; ``contiguous`` keeps the model's order.
        num_ranks: Number of ranks, R; divides E.
    """
    L, _, E = training_counts.shape
    order = np.tile(np.arange(E), (L, 1))
    if experts == "bins":
        total = training_counts.sum(axis=1)
        share = np.divide(training_counts[:, 0], total, out=np.full((L, E), 0.5), where=total > 0)
        order = np.argsort(share, axis=1, kind="stable")
    return ExpertPlacement(physical_to_logical_map=order, slot_rank=np.arange(E) // (E // num_ranks))


def placement_traffic(
    trace: RoutingTrace,
    training_counts: NDArray[np.float64],
    *,
    ranks: Sequence[int],
    hidden: int,
    decide_by: RoutingTrace | None = None,
) -> tuple[PlacementTraffic, ...]:
    """Traffic of a trace for every number of ranks, placement of experts and placement of tokens.

    Args:
        trace: Routing of the tokens.
        training_counts: Text and vision tokens at each expert in training, shape (L, M, E); they place the experts.
        ranks: Numbers of ranks.
        hidden: Hidden size, D.
        decide_by: Trace that decides which ranks serve text, see :func:`home_tokens`; default: ``trace`` itself.
    """
    rows = []
    token_layers = trace.num_tokens * trace.num_layers
    for num_ranks in ranks:
        for experts in EXPERT_ORDERS:
            placement = place_by_counts(training_counts, experts=experts, num_ranks=num_ranks)
            for rule in TOKEN_RULES:
                home = home_tokens(rule, trace, placement, decide_by=decide_by)
                traffic = count_traffic(trace, placement, home, deduplicate="rank")
                rate = transmission_rate(trace, placement, home)
                rows.append(
                    PlacementTraffic(
                        ranks=num_ranks,
                        experts=experts,
                        tokens=rule,
                        transmission_rate=rate.prefill,
                        transmission_rate_vision=rate.prefill_vision,
                        transmission_rate_text=rate.prefill_text,
                        copies_per_token=traffic.remote_copies / token_layers,
                        bytes_remote=2 * traffic.remote_copies * copy_bytes(hidden, "bf16"),
                        imbalance=traffic.imbalance(),
                    )
                )
    return tuple(rows)


def routed_set_result(
    trace: RoutingTrace, *, accuracy: float | None, placements: tuple[PlacementTraffic, ...]
) -> RoutedSetResult:
    """Specialisation and load of the experts of a trace, with the accuracy and the traffic of its test set."""
    counts = expert_counts(trace)
    msi = modality_specialisation(trace)
    return RoutedSetResult(
        accuracy=accuracy,
        tokens=trace.num_tokens,
        vision_share=float(trace.is_vision.mean()),
        experts_per_token=float((trace.expert_ids >= 0).sum(axis=2).mean()),
        msi=float(msi.mean()),
        msi_per_layer=tuple(msi.tolist()),
        expert_imbalance=float((counts.max(axis=1) / np.maximum(counts.mean(axis=1), 1e-300)).mean()),
        text_share=tuple(
            tuple(None if np.isnan(share) else share for share in layer) for layer in text_share(trace).tolist()
        ),
        placements=placements,
    )
