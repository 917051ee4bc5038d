"""The busiest links of an exchange by name, when they were in use, and for how long they were full."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Network
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.topology import Topology

_EQUAL = 1e-12
"""Largest relative difference of equal numbers of bytes, which are sums of floats."""
_FULL = 0.999
"""Share of its capacity from which on a link counts as full."""
_IDLE = 1e-12
"""Share of its capacity above which a link counts as in use; smaller shares are rounding errors."""
_CHANGE = 1e-6
"""Smallest change in the use of a link, as a share of its capacity, that is reported."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkGroup:
    """One link, or several links of one kind and bandwidth that are equally busy.

    Attributes:
        name: ``source -> target``; numbers that differ between the links are ``*``.
        links: Ids, shape (N,).
        num_matching: Number of links of that kind whose name matches; N of them are in the group.
    """

    name: str
    links: NDArray[np.int64]
    num_matching: int

    @property
    def label(self) -> str:
        """The name with the number of links: ``node*.nic* -> fabric (x16)``, or ``(15 of 16)``."""
        if len(self.links) == 1:
            return self.name
        count = (
            f"x{self.num_matching}" if len(self.links) == self.num_matching else f"{len(self.links)} of {self.num_matching}"
        )
        return f"{self.name} ({count})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HotLinks:
    """Load of a link, or of each of several links that carry the same bytes, in one exchange.

    Attributes:
        group: The links.
        kind: Kind of the links, such as ``nvlink4``.
        size: Bytes on each link.
        capacity: B/s of each link.
        busy: Seconds that these bytes take at full capacity.
        utilisation: ``busy`` over the duration of the exchange.
        first: Seconds when the first of the links came into use; None, as the next two, if use was not recorded over time.
        last: Seconds when the last of the links became idle.
        full: Seconds that each link was at 99.9% of its capacity or more, at least.
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
    network: Network, load: NDArray[np.float64], *, duration: float, most: int, link_use: Sequence[LinkUse] = ()
) -> list[HotLinks]:
    """The shared links that need longest for their bytes, busiest first; equally busy links are grouped.

    Args:
        network: Capacities and names of links.
        load: Bytes on each link, shape (H,).
        duration: Seconds that it took.
        most: Largest number of entries to return.
        link_use: Use of every link over time, if recorded.

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair: two entries of 4 links each, ``node0.device* -> switch`` and back,
        3 * 16777216 B or 1.006633 ms of work on each link, utilisation 1.
    """
    topology = network.topology
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
    """Groups of links in use, busiest first; links of one kind and bandwidth that are equally busy form a group.

    A group has more than half of the links that match its name, so that ``node*.nic*`` never hides the few that matter;
    otherwise links are named one by one. Ties are ordered by link id.

    Args:
        topology: Names of links.
        busy: Seconds, or another measure of load, of each link, shape (H,); a link with 0 is not in use.
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
    """Times (s) and the mean share of the links' capacity in use from then on; the last time is ``duration``."""
    points: list[tuple[float, float]] = []
    for moment, use in link_use:
        share = float(use[links].mean())
        if not points or abs(share - points[-1][1]) > _CHANGE:
            points.append((float(moment), share))
    return [*points, (duration, points[-1][1])] if points else []


def _named(topology: Topology, link: int, *, equal: NDArray[np.int64], same: NDArray[np.int64]) -> LinkGroup:
    """A group of equally busy links whose names differ in numbers only; ``link`` alone if they are a minority."""
    names = {other: topology.link_name(other) for other in same.tolist()}
    pattern = _NUMBER.sub("*", names[link])
    links = np.array([other for other in equal.tolist() if _NUMBER.sub("*", names[other]) == pattern])
    name = _common_name([names[other] for other in links.tolist()])
    fits = re.compile(re.escape(name).replace(r"\*", r"\d+"))
    num_matching = sum(fits.fullmatch(other) is not None for other in names.values())
    if 2 * len(links) > num_matching:
        return LinkGroup(name=name, links=links, num_matching=num_matching)
    return LinkGroup(name=names[link], links=np.array([link]), num_matching=1)


def _common_name(names: Sequence[str]) -> str:
    """One name for names that differ in numbers only, with ``*`` where they differ.

    Example:
        >>> _common_name(["node0.nic1 -> fabric", "node2.nic1 -> fabric"])
        'node*.nic1 -> fabric'
    """
    numbers = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    shown = iter([values[0] if len(set(values)) == 1 else "*" for values in numbers])
    return _NUMBER.sub(lambda _: next(shown), names[0])


def _in_time(
    links: NDArray[np.int64], link_use: Sequence[LinkUse], duration: float
) -> tuple[float | None, float | None, float | None]:
    """Seconds when the first link came into use, when the last became idle, and the shortest time that one was full."""
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
