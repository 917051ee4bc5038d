"""From a trace of a trained model to the numbers of the study's table. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement import TOKEN_RULES, ExpertPlacement, home_tokens
from smoes_sim.routing import RoutingTrace, expert_counts, modality_specialisation, text_share
from smoes_sim.traffic.copies import copy_bytes, count_traffic, transmission_rate


def place_by_counts(training_counts: NDArray[np.float64], *, experts: str, num_ranks: int) -> ExpertPlacement:
    """Experts on ranks, equally many each, decided by training counts alone.

    Args:
        training_counts: Of text and vision, (L, M, E).
        experts: ``bins`` sorts each layer by the text share of its counts; ``contiguous`` keeps the model's order.
        num_ranks: R, divides E.
    """
    L, _, E = training_counts.shape
    order = np.tile(np.arange(E), (L, 1))
    if experts == "bins":
        total = training_counts.sum(axis=1)
        share = np.divide(training_counts[:, 0], total, out=np.full((L, E), 0.5), where=total > 0)
        order = np.argsort(share, axis=1, kind="stable")
    return ExpertPlacement(physical_to_logical_map=order, slot_rank=np.arange(E) // (E // num_ranks))


def placement_rows(
    trace: RoutingTrace,
    training_counts: NDArray[np.float64],
    *,
    ranks: Sequence[int],
    hidden: int,
    decide_by: RoutingTrace | None = None,
) -> list[dict[str, Any]]:
    """Traffic of a trace for every number of ranks, placement of experts and placement of tokens.

    Copies are deduplicated by rank and leave the token's home; bytes count dispatch and combine in bf16. ``decide_by``
    tells which ranks serve text, see :func:`home_tokens`.
    """
    rows = []
    token_layers = trace.num_tokens * trace.num_layers
    for num_ranks in ranks:
        for experts in ("contiguous", "bins"):
            placement = place_by_counts(training_counts, experts=experts, num_ranks=num_ranks)
            for rule in TOKEN_RULES:
                home = home_tokens(rule, trace, placement, decide_by=decide_by)
                traffic = count_traffic(trace, placement, home, deduplicate="rank")
                rate = transmission_rate(trace, placement, home)
                rows.append(
                    {
                        "ranks": num_ranks,
                        "experts": experts,
                        "tokens": rule,
                        "transmission_rate": rate.prefill,
                        "transmission_rate_vision": rate.prefill_vision,
                        "transmission_rate_text": rate.prefill_text,
                        "copies_per_token": traffic.remote_copies / token_layers,
                        "bytes_remote": 2 * traffic.remote_copies * copy_bytes(hidden, "bf16"),
                        "imbalance": traffic.imbalance(),
                    }
                )
    return rows


def routing_summary(trace: RoutingTrace) -> dict[str, Any]:
    """Specialisation and load of a trace's experts.

    ``expert_imbalance`` is the busiest expert's routed tokens over the mean, mean over layers.
    """
    counts = expert_counts(trace)
    msi = modality_specialisation(trace)
    return {
        "tokens": trace.num_tokens,
        "vision_share": float(trace.is_vision.mean()),
        "experts_per_token": float((trace.expert_ids >= 0).sum(axis=2).mean()),
        "msi": float(msi.mean()),
        "msi_per_layer": msi.tolist(),
        "expert_imbalance": float((counts.max(axis=1) / np.maximum(counts.mean(axis=1), 1e-300)).mean()),
        "text_share": [[None if np.isnan(share) else share for share in layer] for layer in text_share(trace).tolist()],
    }
