"""Which links are the bottleneck: the busiest ones by name, when they were in use and for how long they were full."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network, link_load
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.topology import Topology

_EQUAL = 1e-12
"""Links whose bytes differ by no more than this, relatively, carry the same: bytes are sums of floats."""
_FULL = 0.999
"""A link is full from this share of its capacity on."""
_IDLE = 1e-12
"""A link is in use above this share of its capacity: shares are sums of floats."""
_CHANGE = 1e-6
"""Changes in the use of a link below this share of its capacity are not shown."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkGroup:
    """One link, or several of one kind and bandwidth that are equally busy.

    Attributes:
        name: ``source -> target``; numbers that differ between the links are ``*``.
        links: Ids, shape (N,).
        alike: Links of that kind in the topology that the name fits; N of them are meant.
    """

    name: str
    links: NDArray[np.int64]
    alike: int

    @property
    def label(self) -> str:
        """The name, with how many links it stands for: ``node*.nic* -> fabric (x16)``, or ``(15 of 16)``."""
        if len(self.links) == 1:
            return self.name
        count = f"x{self.alike}" if len(self.links) == self.alike else f"{len(self.links)} of {self.alike}"
        return f"{self.name} ({count})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HotLinks:
    """How busy a link, or each of several that carry the same bytes, is in one exchange.

    Attributes:
        group: Which links.
        kind: Such as ``nvlink4`` or ``infiniband``.
        size: Bytes that each carries.
        capacity: B/s of each.
        busy: Seconds that these bytes take at full capacity.
        utilisation: ``busy`` over the duration of the exchange.
        first: Seconds when the first of them came into use; ``None`` where use over time was not recorded, as below.
        last: Seconds when the last of them fell idle.
        full: Seconds that each was full (at 99.9% of its capacity or more), at least.
    """

    group: LinkGroup
    kind: str
    size: float
    capacity: float
    busy: float
    utilisation: float
    first: float | None
    last: float | None
    full: float | None

    def to_dict(self) -> dict[str, Any]:
        """A row of a table, with the units in the names."""
        return {
            "link": self.group.label,
            "kind": self.kind,
            "count": len(self.group.links),
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
    """The shared links that need longest for their bytes, busiest first, equal ones together.

    Args:
        network: Capacities and names.
        phases: What was sent.
        duration: Seconds that it took.
        most: Entries to return.
        link_use: Use of every link over time, if it was recorded.

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair: two entries of 4 links each, ``node0.device* -> switch`` and back,
        3 * 16777216 B or 1.006633 ms of work on each link, utilisation 1.
    """
    topology = network.topology
    load = np.zeros(topology.num_links)
    for flows in phases:
        load += link_load(flows, topology.num_links)
    found = []
    for group in islice(link_groups(topology, load / network.capacity, tolerance=_EQUAL), most):
        link = int(group.links[0])
        first, last, full = _in_time(group.links, link_use, duration)
        busy = float(load[link] / network.capacity[link])
        found.append(
            HotLinks(
                group=group,
                kind=topology.link_kinds[topology.link_kind[link]],
                size=float(load[link]),
                capacity=float(network.capacity[link]),
                busy=busy,
                utilisation=busy / duration,
                first=first,
                last=last,
                full=full,
            )
        )
    return found


def link_groups(
    topology: Topology, busy: NDArray[np.float64], *, tolerance: float, label: NDArray[np.uint64] | None = None
) -> Iterator[LinkGroup]:
    """Links in use, busiest first, those of one kind and bandwidth that are equally busy as one group.

    A group is more than half of the links that its name fits, so that ``node*.nic*`` never hides the few that matter;
    fewer are named one by one. Ties go by link id.

    Args:
        topology: Names.
        busy: Seconds or anything else to compare links by, shape (H,); a link with 0 is not in use.
        tolerance: Largest relative difference between links that are equally busy.
        label: Links with different labels are never grouped, shape (H,).
    """
    is_open = busy > 0
    for link in np.argsort(-busy, kind="stable").tolist():
        if not is_open[link]:
            continue
        same = (topology.link_kind == topology.link_kind[link]) & (topology.link_bandwidth == topology.link_bandwidth[link])
        equal = is_open & same & (np.abs(busy - busy[link]) <= tolerance * busy[link])
        if label is not None:
            equal &= label == label[link]
        group = _named(topology, link, equal=np.flatnonzero(equal), same=np.flatnonzero(same))
        is_open[group.links] = False
        yield group


def use_over_time(links: NDArray[np.int64], link_use: Sequence[LinkUse], duration: float) -> list[tuple[float, float]]:
    """Moments and the share of capacity in use from then on, of several links their mean; ends at ``duration``."""
    points: list[tuple[float, float]] = []
    for moment, use in link_use:
        share = float(use[links].mean())
        if not points or abs(share - points[-1][1]) > _CHANGE:
            points.append((float(moment), share))
    return [*points, (duration, points[-1][1])] if points else []


def _named(topology: Topology, link: int, *, equal: NDArray[np.int64], same: NDArray[np.int64]) -> LinkGroup:
    """A link with those among equally busy ones that are named alike; by itself if most so named are not among them."""
    names = {other: topology.link_name(other) for other in same.tolist()}
    pattern = _NUMBER.sub("*", names[link])
    links = np.array([other for other in equal.tolist() if _NUMBER.sub("*", names[other]) == pattern])
    name = _common_name([names[other] for other in links.tolist()])
    fits = re.compile(re.escape(name).replace(r"\*", r"\d+"))
    alike = sum(fits.fullmatch(other) is not None for other in names.values())
    if 2 * len(links) > alike:
        return LinkGroup(name=name, links=links, alike=alike)
    return LinkGroup(name=names[link], links=np.array([link]), alike=1)


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
