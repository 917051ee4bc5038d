"""Max-min fair rates: how flows that compete for links divide them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TIE = 1e-12
"""Levels closer than this, relatively, are one level: two links that saturate together by symmetry do so."""


def max_min_rates(
    offsets: NDArray[np.int64],
    links: NDArray[np.integer],
    capacity: NDArray[np.float64],
    *,
    ceiling: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Rates of flows that share links max-min fairly, by progressive filling.

    All rates rise together; a link that fills freezes the flows on it, a flow that meets its own ceiling freezes alone.
    At the end no flow can gain without one of equal or lower rate losing. Fluid: no packets, no order, no round trips.

    Args:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids.
        capacity: B/s of every link, shape (H,), > 0.
        ceiling: Largest rate of each flow by itself, shape (F,); infinite when left out.

    Returns:
        Rates in B/s, shape (F,); infinite for a flow with neither links nor a ceiling.

    Example:
        A link of 10 with flows a, b and one of 4 that b crosses too: b gets 4 and a gets 6.
    """
    num_flows = len(offsets) - 1
    rates = np.full(num_flows, np.inf)
    limit = np.full(num_flows, np.inf) if ceiling is None else ceiling
    flow_of = np.repeat(np.arange(num_flows), np.diff(offsets))
    used, local = np.unique(links, return_inverse=True)
    residual = capacity[used].astype(np.float64)
    active = np.ones(num_flows, dtype=bool)
    while True:
        live = active[flow_of]
        flow_of, local = flow_of[live], local[live]
        count = np.bincount(local, minlength=len(used))
        share = np.divide(residual, count, out=np.full(len(used), np.inf), where=count > 0)
        level = min(share.min(initial=np.inf), limit[active].min(initial=np.inf))
        if not np.isfinite(level):
            return rates
        full = share <= level * (1 + _TIE)
        frozen = np.zeros(num_flows, dtype=bool)
        frozen[flow_of[full[local]]] = True
        capped = active & (limit <= level * (1 + _TIE))
        rates[frozen | capped] = level
        taken = (frozen | capped)[flow_of]
        residual = np.maximum(residual - np.bincount(local[taken], minlength=len(used)) * level, 0.0)
        active &= ~(frozen | capped)
