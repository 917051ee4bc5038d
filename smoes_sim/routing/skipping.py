"""Skipping of routed slots at inference: a training-free mask on top of any routing, as in MoDES and NAEE."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smoes_sim.errors import TraceError
from smoes_sim.routing.trace import RoutingTrace
from smoes_sim.yaml_files import Spec

_Part = Annotated[float, Field(ge=0, lt=1)]


class SkipShares(Spec):
    """Shares of the slots of each modality that are skipped; every token that is not vision counts as text."""

    vision: _Part = Field(0.0, description="Share of the slots of vision tokens that are skipped, below 1.", examples=[0.5])
    text: _Part = Field(0.0, description="Share of the slots of all other tokens that are skipped, below 1.", examples=[0.1])


def skip_slots(trace: RoutingTrace, shares: SkipShares) -> RoutingTrace:
    """The trace without its least important slots: expert id -1 and weight 0; the other weights are unchanged.

    Over all tokens and layers of a modality, the slots with the lowest weight relative to the best slot of their token are
    skipped, ``w_k / w_1 < beta`` as in NAEE (arXiv 2402.14800), with the beta that gives exactly the wanted share; ties are
    broken by the order of the trace. The best slot is never skipped, as in NAEE. MoDES (arXiv 2511.15690) also has a
    threshold per modality, but on the weight times an importance of the layer, which needs the model; it may skip the best
    slot.

    Raises:
        TraceError: If the trace has no weights, or a share would take the best slots.

    Example:
        Two tokens with weights 0.6 0.3 0.1 and 0.5 0.4 0.1, a third skipped: two of six slots, those of weight 0.1.
    """
    if trace.expert_weights is None:
        raise TraceError("expert_weights are missing, which routing.skip needs. Capture them, or leave skip out.")
    ids, weights = trace.expert_ids.copy(), trace.expert_weights.copy()
    for modality, tokens in (("vision", trace.is_vision), ("text", ~trace.is_vision)):
        share = getattr(shares, modality)
        if not share or not tokens.any():
            continue
        skipped = _least(ids[tokens], weights[tokens], share=share, name=f"routing.skip.{modality}")
        ids[tokens] = np.where(skipped, -1, ids[tokens])
        weights[tokens] = np.where(skipped, 0, weights[tokens])
    return replace(trace, expert_ids=ids, expert_weights=weights)


def _least(ids: NDArray[np.int16], weights: NDArray[np.float16], *, share: float, name: str) -> NDArray[np.bool_]:
    """Mask of the slots to skip, shape (N, L, K)."""
    present = ids >= 0
    weight = np.where(present, weights.astype(np.float32), -1.0)
    best = weight.argmax(axis=2)[:, :, None]
    relative = weight / np.maximum(np.take_along_axis(weight, best, axis=2), np.finfo(np.float32).tiny)
    may_go = present.copy()
    np.put_along_axis(may_go, best, False, axis=2)
    number, most = round(share * int(present.sum())), int(may_go.sum())
    if number > most:
        raise TraceError(
            f"{name} = {share:g}: the best slot of a token is never skipped, so at most {most / present.sum():.4g} can be "
            "skipped. Write that or less."
        )
    order = np.argsort(np.where(may_go, relative, np.inf), axis=None, kind="stable")
    skipped = np.zeros(ids.size, dtype=bool)
    skipped[order[:number]] = True
    return skipped.reshape(ids.shape)
