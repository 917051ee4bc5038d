"""Which links are the bottleneck: the busiest ones by name, when they were in use and for how long they were full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.fluid import LinkUse
from smoes_sim.network.flows import Flows, Network, link_load
from smoes_sim.topology import Topology

_EQUAL = 1e-12
"""Links whose bytes differ by no more than this, relatively, are equally busy."""
_FULL = 0.999
"""A link is full from this share of its capacity on."""
_IDLE = 1e-12
"""A link is in use above this share of its capacity: shares are sums of floats."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class HotLinks:
    """One busy link, or several of one kind that carry the same bytes.

    Attributes:
        name: ``source -> target``; numbers that differ between the links are ``*``.
        kind: Such as ``nvlink4`` or ``infiniband``.
        links: Ids, shape (N,).
        alike: Links of the topology that the name fits; ``N`` of them are meant.
        size: Bytes that each carries.
        capacity: B/s of each.
        busy: Seconds that these bytes take at full capacity.
        utilisation: ``busy`` over the duration of the exchange.
        first: Seconds when the first of them came into use; ``None`` where use over time was not recorded, as below.
        last: Seconds when the last of them fell idle.
        full: Seconds that each was full (at 99.9% of its capacity or more), at least.
    """

    name: str
    kind: str
    links: NDArray[np.int64]
    alike: int
    size: float
    capacity: float
    busy: float
    utilisation: float
    first: float | None
    last: float | None
    full: float | None

    @property
    def label(self) -> str:
        """The name, with how many links it stands for: ``node*.nic* -> fabric (x16)``."""
        if len(self.links) == 1:
            return self.name
        count = f"x{self.alike}" if len(self.links) == self.alike else f"{len(self.links)} of {self.alike}"
        return f"{self.name} ({count})"

    def row(self) -> dict[str, Any]:
        """A row of a table, units in the names."""
        return {
            "link": self.label,
            "kind": self.kind,
            "count": len(self.links),
            "bytes": self.size,
            "capacity_Bps": self.capacity,
            "busy_s": self.busy,
            "utilisation": self.utilisation,
            "first_s": self.first,
            "last_s": self.last,
            "full_s": self.full,
        }


def hot_links(
    network: Network, phases: Sequence[Flows], *, duration: float, most: int, link_use: Sequence[LinkUse] = ()
) -> list[HotLinks]:
    """The shared links that need longest for their bytes, busiest first.

    Links become one entry if they are of one kind and capacity, carry the same bytes (to 1e-12) and are more than half of
    the links that their common name fits, so that ``node*.nic*`` never hides the few that matter. Ties go by link id.

    Args:
        network: Capacities and names.
        phases: What was sent.
        duration: Seconds that it took.
        most: Entries to return.
        link_use: Use of every link over time, if it was recorded.

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair: two entries of 4 links each, ``node*.device0 -> switch`` and back,
        3 * 16777216 B or 1.006633 ms of work on each link, utilisation 1.
    """
    topology = network.topology
    load = np.zeros(topology.num_links)
    for flows in phases:
        load += link_load(flows, topology.num_links)
    busy = load / network.capacity
    is_open = load > 0
    found: list[HotLinks] = []
    for link in np.argsort(-busy, kind="stable").tolist():
        if len(found) == most or not load[link] > 0:
            break
        if not is_open[link]:
            continue
        equal = is_open & (topology.link_kind == topology.link_kind[link]) & (network.capacity == network.capacity[link])
        links, name, alike = _grouped(topology, link, np.flatnonzero(equal & (np.abs(load - load[link]) <= _EQUAL * load[link])))
        is_open[links] = False
        first, last, full = _in_time(links, link_use, duration)
        found.append(
            HotLinks(
                name=name,
                kind=topology.link_kinds[topology.link_kind[link]],
                links=links,
                alike=alike,
                size=float(load[link]),
                capacity=float(network.capacity[link]),
                busy=float(busy[link]),
                utilisation=float(busy[link] / duration) if duration > 0 else 0.0,
                first=first,
                last=last,
                full=full,
            )
        )
    return found


def use_over_time(hot: HotLinks, link_use: Sequence[LinkUse], duration: float) -> list[tuple[float, float]]:
    """Moments and the share of capacity in use from then on, of several links their mean; ends at ``duration``."""
    points: list[tuple[float, float]] = []
    for moment, use in link_use:
        share = float(use[hot.links].mean())
        if not points or share != points[-1][1]:
            points.append((float(moment), share))
    return [*points, (duration, points[-1][1])] if points else []


def _grouped(topology: Topology, link: int, equal: NDArray[np.int64]) -> tuple[NDArray[np.int64], str, int]:
    """The links among equally busy ones that a link is named with, that name, and how many links it fits."""
    pattern = _NUMBER.sub("*", topology.link_name(link))
    links = np.array([other for other in equal.tolist() if _NUMBER.sub("*", topology.link_name(other)) == pattern])
    name = _common_name([topology.link_name(other) for other in links.tolist()])
    fits = re.compile(re.escape(name).replace(r"\*", r"\d+"))
    same_kind = np.flatnonzero(topology.link_kind == topology.link_kind[link]).tolist()
    alike = sum(fits.fullmatch(topology.link_name(other)) is not None for other in same_kind)
    if 2 * len(links) > alike:
        return links, name, alike
    return np.array([link]), topology.link_name(link), 1


def _common_name(names: Sequence[str]) -> str:
    """Names that differ in numbers only, as one, with ``*`` where they differ."""
    numbers = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    shown = iter([values[0] if len(set(values)) == 1 else "*" for values in numbers])
    return _NUMBER.sub(lambda _: next(shown), names[0])


def _in_time(
    links: NDArray[np.int64], link_use: Sequence[LinkUse], duration: float
) -> tuple[float | None, float | None, float | None]:
    """When the first link came into use, when the last fell idle, and the shortest time that one of them was full."""
    if not link_use:
        return None, None, None
    moments = np.array([moment for moment, _ in link_use])
    share = np.stack([use[links] for _, use in link_use])
    ends = np.append(moments[1:], max(duration, float(moments[-1])))
    in_use = np.flatnonzero((share > _IDLE).any(axis=1))
    if not len(in_use):
        return None, None, None
    full = (ends - moments) @ (share >= _FULL)
    return float(moments[in_use[0]]), float(ends[in_use[-1]]), float(full.min())
