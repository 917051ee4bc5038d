"""Even splitting: every vertex divides its part of a flow evenly over its links that lead one hop nearer.

This includes the source, NICs and parallel links. Traffic continues from a switch to a rank in the same way wherever it came
from, so each (switch, rank) is solved once and joined to the ways out of the sources. Arrays of entries, shape (N,), are
sorted by flow and then by hop.

Example:
    Two NICs on a leaf with 4 spines above: each NIC carries 1/2, each link to a spine 1/4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology.core import Core, Hops, Ints, NextHops, expand

Reals = NDArray[np.float64]
_FLOWS = 2**17
"""Number of flows that are divided at a time, which bounds the memory needed besides the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """Links that parts of flows (or of segments) cross: flow, hop, link and share of each entry, shape (N,)."""

    flow: Ints
    hop: Hops
    link: NDArray[np.int32]
    share: Reals

    @classmethod
    def of(cls, flow: Ints, hop: Hops | Ints | int, link: NDArray[np.int32] | Ints, share: Reals) -> _Entries:
        """Entries; a scalar hop is that of all of them."""
        hops = np.broadcast_to(np.asarray(hop, dtype=np.int16), flow.shape)
        return cls(flow=flow, hop=hops, link=link.astype(np.int32), share=share)

    def offsets(self, num_flows: int) -> Ints:
        """Start of the entries of each flow, shape (F + 1,)."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.flow, minlength=num_flows))]).astype(np.int64)


class Splitter:
    """Divides flows over all shortest routes of one topology."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._hops = NextHops(core, core.num_ranks, core.hops_into)

    def spread(self, src: Ints, dst: Ints) -> tuple[Ints, NDArray[np.int32], Hops, Reals]:
        """Offsets, shape (F + 1,), and link, hop and share of each entry, for pairs of different ranks, shape (F,)."""
        lengths, links, hops, shares = [], [], [], []
        for first in range(0, max(len(src), 1), _FLOWS):
            part = slice(first, first + _FLOWS)
            entries = self._entries(src[part], dst[part])
            lengths.append(np.bincount(entries.flow, minlength=len(src[part])))
            links.append(entries.link)
            hops.append(entries.hop)
            shares.append(entries.share)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        return offsets, np.concatenate(links), np.concatenate(hops), np.concatenate(shares)

    def _entries(self, src: Ints, dst: Ints) -> _Entries:
        low, high, links = self._core.find_direct(src, dst)
        flow, place = expand(low, high - low)
        direct = _Entries.of(flow, 0, links[place], 1 / (high - low)[flow])
        rest = np.flatnonzero(high == low)
        if not len(rest):
            return direct
        return _sorted([direct, *self._through_switches(rest, src[rest], dst[rest])])

    def _through_switches(self, flows: Ints, src: Ints, dst: Ints) -> list[_Entries]:
        """Entries of the ways out that begin a shortest route, and of the segments after them."""
        core, leave = self._core, self._core.leave
        row, way = np.nonzero(core.shortest_ways(src, dst).any(axis=1).T)
        weight = leave.weight[src[row], way]
        share = weight / np.bincount(row, weights=weight)[row]
        parts = []
        for step, links in enumerate(leave.links_of(src[row], way)):
            has = links >= 0
            parts.append(_Entries.of(flows[row[has]], step, links[has], share[has]))
        starts, segment = np.unique(leave.vertex[src[row], way] * core.num_ranks + dst[row], return_inverse=True)
        beyond = self._segments(starts // core.num_ranks, starts % core.num_ranks)
        offsets = beyond.offsets(len(starts))
        run, place = expand(offsets[segment], np.diff(offsets)[segment])
        later = beyond.hop[place] + leave.length[src[row], way][run]
        parts.append(_Entries.of(flows[row[run]], later, beyond.link[place], beyond.share[place] * share[run]))
        return parts

    def _segments(self, start: Ints, rank: Ints) -> _Entries:
        """Entries of flows from vertices of the core to ranks, numbered as given, shape (S,) each."""
        core = self._core
        segment, here, share = np.arange(len(start)), start, np.ones(len(start))
        left, parts, hop = core.hops_into(start, rank), [], 0
        while len(segment):
            low, high, nearer = self._hops.find(here, rank[segment])
            ends = [(way, *self._arriving(here, rank[segment], left, way)) for way in range(core.enter.width)]
            each = share / (high - low + np.sum([weight for _, _, weight in ends], axis=0))
            for way, at, weight in ends:
                step = np.full(len(at), hop)
                for links in core.enter.links_of(rank[segment[at]], way):
                    has = links >= 0
                    parts.append(_Entries.of(segment[at[has]], step[has], links[has], (each * weight)[at[has]]))
                    step += has
            run, place = expand(low, high - low)
            parts.append(_Entries.of(segment[run], hop, core.out_links[nearer[place]], each[run]))
            keys, state = np.unique(segment[run] * core.size + core.out_target[nearer[place]], return_inverse=True)
            share = np.bincount(state, weights=each[run], minlength=len(keys)).astype(np.float64)
            segment, here, hop = keys // core.size, keys % core.size, hop + 1
            left = core.hops_into(here, rank[segment])
        return _sorted(parts)

    def _arriving(self, here: Ints, rank: Ints, left: Hops, way: int) -> tuple[Ints, Reals]:
        """Indices of the states that can take a way into their rank, and its weight for each state, shape (S,)."""
        enter = self._core.enter
        is_next = (enter.vertex[rank, way] == here) & (enter.length[rank, way] == left)
        return np.flatnonzero(is_next), np.where(is_next, enter.weight[rank, way], 0.0)


def _sorted(parts: list[_Entries]) -> _Entries:
    """Entries sorted by flow, hop and link; entries of a flow on the same link are merged."""
    flow, hop, link, share = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("flow", "hop", "link", "share")
    )
    keys = (flow * (int(hop.max(initial=0)) + 1) + hop) * (int(link.max(initial=0)) + 1) + link
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    is_again = keys[1:] == keys[:-1]
    share = share[order]
    if is_again.any():
        first = np.flatnonzero(np.concatenate([[True], ~is_again]))
        share, order = np.add.reduceat(share, first), order[first]
    return _Entries(flow=flow[order], hop=hop[order], link=link[order], share=share)
