"""Classes of flows and links that are interchangeable, found by colour refinement and proven by counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]

_SAMPLE = 4096
"""Number of flows whose colours show early whether there is any symmetry."""
_SHRINK = 8
"""Least ratio of flows to classes at which the reduction pays."""
_ROUNDS = 24
_MAX_TABLE = 100_000_000
"""Entries of the table of (link, class) counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """One flow for each of C classes of flows, one link for each of D classes of links.

    Attributes:
        flow_class: Class of each flow, shape (F,).
        link_class: Class of each link, shape (H,).
        offsets: Class ``c`` crosses ``links[offsets[c]:offsets[c + 1]]``, shape (C + 1,).
        links: Link class of each entry, in order of id.
        weight: Flows of class ``c`` on one link of that class, for each entry.
        size: Bytes of one flow, shape (C,).
        capacity: B/s of one link, shape (D,).
        ready: Seconds, shape (C,).
        ceiling: B/s, shape (C,).
    """

    flow_class: Longs
    link_class: Longs
    offsets: Longs
    links: Ids
    weight: Reals
    size: Reals
    capacity: Reals
    ready: Reals
    ceiling: Reals


def collapse(offsets: Longs, links: Ids, size: Reals, capacity: Reals, ready: Reals, ceiling: Reals) -> Classes | None:
    """Classes of flows whose max-min rates are equal at all times, or ``None`` if there are too many to be useful.

    Colours start from sizes, ceilings, ready times and capacities and are refined by the multiset of neighbours' colours
    until nothing splits. Rates are constant on the classes of any partition in which every flow of a class crosses equally
    many links of each class and every link of a class carries equally many flows of each class; colours are hashes, so
    both are then counted. Every flow crosses a link.

    Args:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids.
        size: Bytes, shape (F,).
        capacity: B/s, shape (H,).
        ready: Seconds, shape (F,).
        ceiling: B/s, shape (F,).

    Example:
        Uniform all-to-all of 4,096 ranks on a star: one class of 16,773,120 flows, two of links, 4,095 flows a link.
    """
    found = _refined(offsets, links, size, capacity, ready, ceiling)
    if found is None:
        return None
    flow_color, link_color = found
    link_class = np.unique(link_color, return_inverse=True)[1].astype(np.int64)
    head, flow_class = np.unique(flow_color, return_index=True, return_inverse=True)[1:]
    flow_class = flow_class.astype(np.int64)
    if len(head) * len(capacity) > _MAX_TABLE:
        return None
    attributes = [(size, flow_class, head), (ready, flow_class, head), (ceiling, flow_class, head)]
    link_head = np.unique(link_class, return_index=True)[1]
    attributes.append((capacity, link_class, link_head))
    if not all(np.array_equal(values[heads][label], values) for values, label, heads in attributes):
        return None
    if not _is_equitable_for_flows(offsets, links, flow_class, head, link_class):
        return None
    weight = _counts_per_link(offsets, links, flow_class, len(head), link_class, link_head)
    if weight is None:
        return None
    entry = np.argwhere(weight.T > 0)
    return Classes(
        flow_class=flow_class,
        link_class=link_class,
        offsets=np.searchsorted(entry[:, 0], np.arange(len(head) + 1)).astype(np.int64),
        links=entry[:, 1].astype(np.int32),
        weight=weight.T[entry[:, 0], entry[:, 1]].astype(np.float64),
        size=size[head],
        capacity=capacity[link_head],
        ready=ready[head],
        ceiling=ceiling[head],
    )


def _refined(
    offsets: Longs, links: Ids, size: Reals, capacity: Reals, ready: Reals, ceiling: Reals
) -> tuple[Words, Words] | None:
    """Colours of flows and links that no further round splits; ``None`` as soon as flows are too different."""
    count = np.diff(offsets)
    flow_color = _mix(size.view(np.uint64))
    for values in (ready, ceiling):
        flow_color = _mix(flow_color + _mix((values + 0.0).view(np.uint64)))
    link_color = _mix(capacity.view(np.uint64))
    sample = np.random.default_rng(0).integers(0, len(size), _SAMPLE) if len(size) > _SAMPLE else np.arange(len(size))
    if len(np.unique(flow_color[sample])) * _SHRINK // 2 > len(sample):  # sizes alone are too different
        return None
    before = 0
    for _ in range(_ROUNDS):
        total = np.zeros(len(capacity), np.uint64)
        np.add.at(total, links, np.repeat(_mix(flow_color), count))
        link_color = _mix(link_color + _mix(total))
        flow_color = _mix(flow_color + np.add.reduceat(_mix(link_color)[links], offsets[:-1]))
        if len(np.unique(flow_color[sample])) * _SHRINK // 2 > len(sample):
            return None
        classes = len(np.unique(flow_color)) + len(np.unique(link_color))
        if classes == before:
            return (flow_color, link_color) if classes * _SHRINK <= len(size) + len(capacity) else None
        before = classes
    return None


def _is_equitable_for_flows(offsets: Longs, links: Ids, flow_class: Longs, head: Longs, link_class: Longs) -> bool:
    """Whether each flow crosses the same link classes, each once, as the first of its class."""
    count = np.diff(offsets)
    if not np.array_equal(count[head][flow_class], count):
        return False
    for length in np.unique(count):
        flows = np.flatnonzero(count == length)
        for part in np.array_split(flows, len(flows) // 1_000_000 + 1):
            mine = np.sort(link_class[links[offsets[part][:, None] + np.arange(length)]], axis=1)
            theirs = offsets[head[flow_class[part]]][:, None] + np.arange(length)
            if not np.array_equal(mine, np.sort(link_class[links[theirs]], axis=1)):
                return False
    return True


def _counts_per_link(
    offsets: Longs, links: Ids, flow_class: Longs, num_classes: int, link_class: Longs, link_head: Longs
) -> Longs | None:
    """Flows of each class on one link of each class, shape (D, C); ``None`` if links of a class differ."""
    label = np.repeat(flow_class, np.diff(offsets))
    table = np.bincount(links * np.int64(num_classes) + label, minlength=len(link_class) * num_classes)
    table = table.reshape(len(link_class), num_classes)
    used = table[link_head]
    return used if np.array_equal(used[link_class], table) else None


def _mix(value: Words) -> Words:
    """SplitMix64: a well mixed 64-bit hash of each value."""
    mixed = value + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
