"""The plot of growth: four panels, log-log but for skew, each line named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from smoes_sim.report.charts import save_chart

_COLOURS = {
    "star": "#0b7a75",
    "rail-optimised": "#30638e",
    "3-D torus": "#d1495b",
    "two-level 4:1": "#c77d0a",
    "fat tree 4:1": "#7a5195",
    "dragonfly": "#4d6a2c",
    "star, exact": "#5aa9a4",
    "star, uniform": "#8fb8b5",
    "SimGrid, star": "#7a8793",
}
_TITLES = {
    "ranks": ("Ranks", "ranks (flows grow with the square)"),
    "flows": ("Flows, the same ranks", "flows"),
    "crossings": ("Fabrics, the same ranks and flows", "links crossed by all flows"),
    "zipf": ("Skew, the same ranks and flows", "Zipf exponent (0: uniform, collapsed by symmetry)"),
}
_HEIGHT, _NAME_HEIGHT = 270, 15
_TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]


def save_growth(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the points of ``growth.measure_growth``; those without a time are left out."""
    timed = [point for point in points if "cpu_s" in point]
    times = [point["cpu_s"] for point in timed]
    domain = [min(times) * 0.7, max(times) * 1.6]
    panels = [_panel([point for point in timed if point["panel"] == name], name, domain) for name in _TITLES]
    grid = alt.vconcat(alt.hconcat(*panels[:2], spacing=30), alt.hconcat(*panels[2:], spacing=30), spacing=26)
    save_chart(grid.configure_view(stroke=None).configure_axis(labelFontSize=11, titleFontSize=12), path)


def _panel(points: list[dict[str, Any]], name: str, domain: list[float]) -> Any:
    title, axis = _TITLES[name]
    values = [{key: point[key] for key in ("series", "x", "cpu_s")} for point in points]
    last = {value["series"]: value for value in sorted(values, key=lambda value: value["x"])}
    xs = sorted({value["x"] for value in values})
    scale = (
        alt.Scale(domain=[0, 1.9]) if name == "zipf" else alt.Scale(type="log", domain=[xs[0] * 0.85, xs[-1] * _room(xs)])
    )
    ticks = xs if name != "crossings" else alt.Undefined
    digits = ".2s" if name in {"flows", "crossings"} else "~g"
    x = alt.X("x:Q", title=axis, scale=scale, axis=alt.Axis(grid=False, format=digits, values=ticks))
    y_axis = alt.Axis(values=_TICKS, format="~g", gridColor="#eceff1")
    y = alt.Y("cpu_s:Q", title="CPU seconds", scale=alt.Scale(type="log", domain=domain), axis=y_axis)
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())), legend=None)
    base = alt.Chart(_data(values)).encode(x=x, y=y, color=colour)
    ends = alt.Chart(_data(_apart(list(last.values()), domain))).encode(
        x=x, y=alt.Y("label:Q"), color=colour, text="series:N"
    )
    labels = ends.mark_text(align="left", dx=7, fontSize=12, fontWeight="bold")
    return (base.mark_line(strokeWidth=2) + base.mark_circle(size=45, opacity=1) + labels).properties(
        width=400, height=_HEIGHT, title=alt.TitleParams(title, anchor="start", fontSize=14)
    )


def _apart(ends: list[dict[str, Any]], domain: list[float]) -> list[dict[str, Any]]:
    """Where the names of lines stand: beside their last points, pushed up so that none covers another."""
    gap = (domain[1] / domain[0]) ** (_NAME_HEIGHT / _HEIGHT)
    placed: list[dict[str, Any]] = []
    for end in sorted(ends, key=lambda end: end["cpu_s"]):
        lowest = placed[-1]["label"] * gap if placed else 0.0
        placed.append(end | {"label": max(end["cpu_s"], lowest)})
    return placed


def _data(values: list[dict[str, Any]]) -> Any:
    return alt.Data.from_dict({"values": values})


def _room(xs: Sequence[float]) -> float:
    """How far the axis goes on beyond the last point, as a factor, so that its label fits."""
    return float((xs[-1] / xs[0]) ** 0.4 + 0.2)
