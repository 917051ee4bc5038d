"""Draw a topology as SVG: ranks at the bottom, switches above, links coloured by kind."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology.graph import Topology
from smoes_sim.units import print_bandwidth

_COLOURS = ("#0b7a75", "#d1495b", "#edae49", "#30638e", "#7d5ba6", "#5f6b73")
_IDLE, _WARM, _HOT = (158, 167, 175), (224, 153, 47), (209, 33, 55)
_MOST_RANKS = 72
_WIDTH, _LEVEL_HEIGHT, _MARGIN, _LEGEND_LINE = 1080, 110, 40, 22


def draw_topology(topology: Topology, *, busy: NDArray[np.float64] | None = None) -> str:
    """SVG of a topology; of a large one the first 72 ranks and the vertices near them.

    Host-bus links (rank to its NIC) are drawn thin and grey. The title gives the number of ranks drawn.

    Args:
        topology: The topology.
        busy: Seconds, or another measure of load, of each link, shape (H,). Links are then coloured from grey (idle) to red
            (the busiest), by the busier of the two directions.
    """
    drawn = _vertices_drawn(topology)
    level = _levels(topology)
    x, y = _positions(topology, drawn, level)
    height = int(y.max()) + _MARGIN + _LEGEND_LINE * (len(topology.link_kinds) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 24, _title(topology, drawn), size=15),
        *_link_lines(topology, drawn, x, y, busy),
        *(_vertex(topology, vertex, x[vertex], y[vertex]) for vertex in np.flatnonzero(drawn).tolist()),
        *_legend(topology, int(y.max()) + _MARGIN, is_hot=busy is not None),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _title(topology: Topology, drawn: NDArray[np.bool_]) -> str:
    shown = int(drawn[: topology.num_ranks].sum())
    of = "" if shown == topology.num_ranks else f" ({shown} of them drawn)"
    return f"{topology.name}: {topology.num_ranks} ranks{of}, {topology.num_links} directed links"


def _vertices_drawn(topology: Topology) -> NDArray[np.bool_]:
    """Whether each vertex is drawn, (V,): the drawn ranks, and what they reach in three hops without passing a device."""
    drawn = np.zeros(len(topology.vertex_names), dtype=bool)
    drawn[: min(topology.num_ranks, _MOST_RANKS)] = True
    if topology.num_ranks <= _MOST_RANKS:
        drawn[:] = True
        return drawn
    for _ in range(3):  # device to NIC to leaf to spine: enough to see where the rest would hang
        reached = drawn[topology.link_source] & (topology.link_target >= topology.num_ranks)
        drawn[topology.link_target[reached]] = True
    return drawn


def _levels(topology: Topology) -> NDArray[np.int64]:
    """Number of hops of every vertex from the nearest device, shape (V,)."""
    level = np.full(len(topology.vertex_names), -1, dtype=np.int64)
    level[: topology.num_ranks] = 0
    for hops in range(1, len(level)):
        fresh = topology.link_target[(level[topology.link_source] == hops - 1) & (level[topology.link_target] < 0)]
        if not len(fresh):
            break
        level[fresh] = hops
    return level


def _positions(
    topology: Topology, drawn: NDArray[np.bool_], level: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    top = int(level[drawn].max())
    flat = top == 0  # a mesh has no switch: bow the ranks so that their links can be told apart
    x, y = np.zeros(len(level)), _MARGIN * 2.0 + (top - level).astype(np.float64) * _LEVEL_HEIGHT
    for here in range(top + 1):
        members = np.flatnonzero(drawn & (level == here))
        if here:
            below = [_mean_x(topology, vertex, drawn & (level < here), x) for vertex in members.tolist()]
            members = members[np.argsort(below, kind="stable")]
        x[members] = _WIDTH * (np.arange(len(members)) + 0.5) / len(members)
    if flat:
        angle = 2 * np.pi * np.arange(topology.num_ranks) / topology.num_ranks
        x[: topology.num_ranks], y[: topology.num_ranks] = _WIDTH / 2 + 190 * np.sin(angle), 260 - 190 * np.cos(angle)
    return x, y


def _mean_x(topology: Topology, vertex: int, below: NDArray[np.bool_], x: NDArray[np.float64]) -> float:
    near = topology.link_source[(topology.link_target == vertex) & below[topology.link_source]]
    return float(x[near].mean()) if len(near) else 0.0


def _link_lines(
    topology: Topology,
    drawn: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    busy: NDArray[np.float64] | None,
) -> list[str]:
    lines, seen = [], set()
    heat = None if busy is None else _heat(topology, busy)
    order = range(topology.num_links) if heat is None else np.argsort(heat, kind="stable").tolist()  # the busiest on top
    for link in order:
        a, b = int(topology.link_source[link]), int(topology.link_target[link])
        if not (drawn[a] and drawn[b]) or (b, a) in seen:
            continue
        seen.add((a, b))
        kind = topology.link_kinds[topology.link_kind[link]]
        width = 0.6 if kind == "host-bus" else 0.8 + max(0.0, np.log2(topology.link_bandwidth[link] / 1e9)) / 5
        colour = _colour(topology, kind) if heat is None else _hot_colour(float(heat[link]))
        lines.append(
            f'<line x1="{x[a]:.1f}" y1="{y[a]:.1f}" x2="{x[b]:.1f}" y2="{y[b]:.1f}" stroke="{colour}" '
            f'stroke-width="{width:.2f}" stroke-opacity="0.7"/>'
        )
    return lines


def _heat(topology: Topology, busy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load of each link or the opposite one, whichever is larger, as a share of the largest load, shape (H,)."""
    pairs: dict[tuple[int, int], float] = {}
    ends = [tuple(sorted(pair)) for pair in zip(topology.link_source.tolist(), topology.link_target.tolist(), strict=True)]
    for (a, b), value in zip(ends, busy.tolist(), strict=True):
        pairs[a, b] = max(value, pairs.get((a, b), 0.0))
    return np.array([pairs[a, b] for a, b in ends]) / max(float(busy.max(initial=0.0)), np.finfo(float).tiny)


def _hot_colour(share: float) -> str:
    """Colour between grey at 0, amber at 0.5 and red at 1."""
    near, far, part = (_IDLE, _WARM, 2 * share) if share < 0.5 else (_WARM, _HOT, 2 * share - 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(near, far, strict=True))


def _colour(topology: Topology, kind: str) -> str:
    kinds = [name for name in topology.link_kinds if name != "host-bus"]
    return "#c4cad0" if kind == "host-bus" else _COLOURS[kinds.index(kind) % len(_COLOURS)]


def _vertex(topology: Topology, vertex: int, x: float, y: float) -> str:
    kind, name = topology.vertex_kinds[vertex], escape(topology.vertex_names[vertex])
    if kind == "device":
        label = _text(x, y + 20, str(vertex), anchor="middle", size=9)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#22303c"><title>rank {vertex}: {name}</title></circle>{label}'
    if kind == "nic":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="#7a8793"><title>{name}</title></rect>'
    box = f'<rect x="{x - 9:.1f}" y="{y - 7:.1f}" width="18" height="14" rx="3" fill="#ffffff" stroke="#22303c"/>'
    return f"<g><title>{name}</title>{box}</g>"


def _legend(topology: Topology, top: int, *, is_hot: bool) -> Sequence[str]:
    lines = []
    for number, kind in enumerate(topology.link_kinds):
        chosen = topology.link_kind == topology.link_kinds.index(kind)
        rates = sorted({float(rate) for rate in topology.link_bandwidth[chosen]})
        text = f"{kind}: {int(chosen.sum())} directed links, {' or '.join(print_bandwidth(rate) for rate in rates)} each"
        y = top + _LEGEND_LINE * number
        colour = _hot_colour(0) if is_hot else _colour(topology, kind)
        lines.append(
            f'<line x1="{_MARGIN}" y1="{y - 4}" x2="{_MARGIN + 26}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>'
        )
        lines.append(_text(_MARGIN + 36, y, text))
    return lines


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#22303c">{escape(text)}</text>'
