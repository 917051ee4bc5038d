"""The plot of growth: four panels, log-log but for skew, each line named at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from smoes_sim.display.charts import save_chart

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
_HEIGHT, _NAME_HEIGHT, _NAME_WIDTH = 270, 15, 0.22
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
    title, x_title = _TITLES[name]
    values = [{key: point[key] for key in ("series", "x", "cpu_s")} for point in points]
    xs = sorted({value["x"] for value in values})
    reach = [0.0, 1.25 * xs[-1]] if name == "zipf" else [0.85 * xs[0], xs[-1] * ((xs[-1] / xs[0]) ** 0.4 + 0.2)]
    ticks, form = (xs, ".2s" if name == "flows" else "~g") if name != "crossings" else (alt.Undefined, "~s")
    x_scale = alt.Scale(type="linear" if name == "zipf" else "log", domain=reach)
    x = alt.X("x:Q", title=x_title, scale=x_scale, axis=alt.Axis(grid=False, format=form, values=ticks))
    y_form: dict[str, Any] = {
        "title": "CPU seconds",
        "scale": alt.Scale(type="log", domain=domain),
        "axis": alt.Axis(values=_TICKS, format="~g", gridColor="#eceff1"),
    }
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())), legend=None)
    base = alt.Chart(_data(values)).encode(x=x, y=alt.Y("cpu_s:Q", **y_form), color=colour)
    names = alt.Chart(_data(_names(values, domain, reach))).encode(x=x, y=alt.Y("label:Q", **y_form), color=colour)
    text = names.mark_text(align="left", dx=7, fontSize=12, fontWeight="bold").encode(text="series:N")
    return (base.mark_line(strokeWidth=2) + base.mark_circle(size=45, opacity=1) + text).properties(
        width=400, height=_HEIGHT, title=alt.TitleParams(title, anchor="start", fontSize=14)
    )


def _names(values: list[dict[str, Any]], domain: list[float], reach: list[float]) -> list[dict[str, Any]]:
    """The last point of each line, and at which height its name stands: higher where another name is in the way."""
    gap = (domain[1] / domain[0]) ** (_NAME_HEIGHT / _HEIGHT)
    last = {value["series"]: value for value in sorted(values, key=lambda value: value["x"])}
    placed: list[dict[str, Any]] = []
    for end in sorted(last.values(), key=lambda end: end["cpu_s"]):
        near = [
            other["label"] for other in placed if abs(_across(other["x"], reach) - _across(end["x"], reach)) < _NAME_WIDTH
        ]
        placed.append(end | {"label": max([end["cpu_s"], *(height * gap for height in near)])})
    return placed


def _across(x: float, reach: list[float]) -> float:
    """Where a value stands on its axis, 0 to 1."""
    low, high = reach
    return math.log(x / low) / math.log(high / low) if low > 0 else x / high


def _data(values: list[dict[str, Any]]) -> Any:
    return alt.Data.from_dict({"values": values})
