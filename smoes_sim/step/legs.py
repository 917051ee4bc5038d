"""A pass as a sequence of exchanges with the work of each rank around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.network import Flows
from smoes_sim.step.layers import PassLayer
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, Overlap

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """An exchange, and the work before and during it; S sets of constants, R ranks.

    Attributes:
        flows: Its messages; None at the end of the pass, which only has work before it.
        before: Seconds of work since the exchange before, (S, R).
        meanwhile: Seconds of work during the exchange, (S, R).
        is_expert: Whether it is a dispatch or a combine, not a gather or a scatter.
        ends_layer: Whether it is the last of an MoE layer.
    """

    flows: Flows | None
    before: Times
    meanwhile: Times
    is_expert: bool = False
    ends_layer: bool = False


def pass_legs(
    exchanges: Sequence[LayerExchanges],
    group: GroupExchanges | None,
    times: Sequence[ComputeTimes],
    layers: Sequence[PassLayer],
    *,
    overlap: Overlap,
    shares_feed_forward: bool,
) -> Iterator[Leg]:
    """The exchanges of a pass in order, each of one phase, and its end.

    Args:
        exchanges: Dispatch and combine of each MoE layer.
        group: Exchanges around attention; None without attention groups.
        times: Compute times under each set of constants.
        layers: Layers of the pass, in order.
        overlap: What computes while tokens travel: ``none`` or ``shared_expert``.
        shares_feed_forward: Whether the group also shares dense layers.
    """
    attention, dense, gate, shared = (
        np.stack([getattr(one, name) for one in times]) for name in ("attention", "dense", "gate", "shared")
    )
    none = before = np.zeros_like(attention)
    during, own = (shared, gate) if overlap == "shared_expert" else (none, gate + shared)
    for layer in layers:
        parts = [(attention, group)]
        if layer.moe is None:
            parts.append((dense, group if shares_feed_forward else None))
        for work, around in parts:
            if around is None:
                before = before + work
                continue
            yield Leg(flows=around.gather[0], before=before, meanwhile=none)
            yield Leg(flows=around.scatter[0], before=work, meanwhile=none)
            before = none
        if layer.moe is not None:
            experts = np.stack([one.experts[layer.moe] for one in times])
            pair = exchanges[layer.moe]
            yield Leg(flows=pair.dispatch[0], before=before + own, meanwhile=during, is_expert=True)
            yield Leg(flows=pair.combine[0], before=experts, meanwhile=none, is_expert=True, ends_layer=True)
            before = none

    head = np.stack([one.head for one in times])
    yield Leg(flows=None, before=before + head, meanwhile=none)
