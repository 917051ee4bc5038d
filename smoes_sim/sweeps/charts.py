"""Charts of a sweep: a metric over one of its keys as lines, bars or a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from smoes_sim.display.charts import COLOURS, load_altair
from smoes_sim.display.result import flat
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import Change, changes_as_dict
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.sweeps.study import PlotSpec, text_at
from smoes_sim.yaml_files import nearest

if TYPE_CHECKING:
    import altair as alt

_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "tokens_per_s": "output tokens/s", "ep_overhead": "EP overhead"}
"""Metrics that axes call otherwise than the columns."""
_SHARES = {"ep_overhead", "decode_ep_overhead"}
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_PALE = ("#f1efe9", "#6fb9b4")
_LETTER = 6
"""Width of a letter of an axis label, pixels."""
_PANEL_WIDTH = 300
"""Width of one of several panels, pixels."""
_WIDE = 16
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


class PlottedPoint(Protocol):
    """A point of a sweep: what it sets, and its prediction and changes where it has them."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the point sets, by key."""

    @property
    def prediction(self) -> Prediction | None:
        """The prediction; None if the point failed."""

    @property
    def changes(self) -> Mapping[str, Change] | None:
        """Changes from the point that it is compared with; None if there is none."""


def sweep_chart(
    points: Sequence[PlottedPoint], plot: PlotSpec, *, width: int = 560, colours: Sequence[str] = COLOURS
) -> alt.LayerChart | alt.FacetChart:
    """A metric of a sweep over a swept key: lines or bars with their intervals, or a heat map.

    Numbers are on a continuous axis, everything else is in the order of the study, with slanted labels where they would
    overlap; points without the metric are left out.

    Args:
        points: The points, in the order of the study.
        plot: What to draw.
        width: Width of the picture in pixels, without axis and legend.
        colours: Colours of lines and bars.

    Raises:
        ConfigError: If no point has the metric as a number, or the plotting libraries are not installed.
    """
    alt = load_altair()
    data, title = _in_unit(_cells(points, plot), plot.metric)
    width = width if plot.panels is None else _PANEL_WIDTH
    draw = _bars if plot.kind == "bars" else _over
    picture = draw(data, plot, title=title, width=width, colours=colours)
    if plot.panels is None:
        return picture
    panels = list(dict.fromkeys(cell["panel"] for cell in data))
    header = alt.Header(labelFontWeight="bold", labelLimit=_PANEL_WIDTH)
    return picture.facet(column=alt.Column("panel:N", sort=panels, title=None, header=header))


def _over(
    data: Sequence[dict[str, Any]], plot: PlotSpec, *, title: str, width: int, colours: Sequence[str]
) -> alt.LayerChart:
    """Lines or a heat map over the values of a swept key."""
    alt = load_altair()
    places = list(dict.fromkeys(cell["over"] for cell in data))
    angle = 0 if _LETTER * sum(len(str(place)) + 1 for place in places) < width else -35
    axis = {"title": plot.over, "axis": alt.Axis(labelAngle=angle, labelLimit=140, values=places)}
    if plot.kind == "lines" and all(type(place) in {int, float} for place in places):
        over = alt.X("over:Q", scale=_scale(places, zero=False), **axis)
    else:
        over = alt.X("over:O", sort=places, **axis)
    base = alt.Chart(alt.Data(values=list(data))).encode(x=over, tooltip=["over:N", "by:N", "value:Q", "low:Q", "high:Q"])
    by = {"sort": list(dict.fromkeys(cell["by"] for cell in data)), "title": ", ".join(plot.lines) or None}
    height = alt.Y("value:Q", title=title, scale=_scale([cell["value"] for cell in data], zero=True))
    picture = _lines(base, by, height, colours) if plot.kind == "lines" else _heat_map(base, by, title)
    return picture.properties(width=width, height=320)


def _scale(values: Sequence[float], *, zero: bool) -> alt.Scale:
    """Logarithmic where values differ by much; otherwise linear, from zero on if ``zero``."""
    is_wide = min(values) > 0 and max(values) >= _WIDE * min(values)
    return load_altair().Scale(type="log", nice=False, padding=12) if is_wide else load_altair().Scale(zero=zero)


def _cells(points: Sequence[PlottedPoint], plot: PlotSpec) -> list[dict[str, Any]]:
    """What is drawn of each point that has the metric."""
    table = [_columns(point) for point in points]
    metrics = {name for row in table for name, value in row.items() if type(value) in {int, float}}
    if plot.metric not in metrics:
        raise ConfigError(f'plot.metric = "{plot.metric}" is not a number of this sweep. {nearest(plot.metric, metrics)}')
    return [
        {
            "over": place if type(place := point.settings.get(plot.over)) in {int, float} else _place(point, plot.over),
            "by": ", ".join(_place(point, key) for key in plot.lines),
            "value": columns[plot.metric],
            **_ends(columns, plot.metric),
        }
        | ({"panel": _place(point, plot.panels)} if plot.panels else {})
        for point, columns in zip(points, table, strict=True)
        if columns.get(plot.metric) is not None
    ]


def _in_unit(cells: Sequence[dict[str, Any]], metric: str) -> tuple[list[dict[str, Any]], str]:
    """The cells in the unit of the axis, and its title: changes and shares in percent, times in s, ms or us."""
    bare = metric.removeprefix("change_")
    name = _NAMES.get(bare, bare)
    if bare != metric:
        factor, title = 100.0, f"change of {name} (%)"
    elif bare in _SHARES:
        factor, title = 100.0, f"{name} (%)"
    elif bare.endswith("_s") and not bare.endswith("per_s"):
        largest = max(abs(cell["value"]) for cell in cells)
        seconds, unit = next((step for step in _TIMES if largest >= step[0]), _TIMES[0])
        factor, title = 1 / seconds, f"{name.removesuffix('_s')} ({unit})"
    else:
        return list(cells), name
    keys = ("value", "low", "high")
    scaled = [{key: cell[key] if cell[key] is None else factor * cell[key] for key in keys} for cell in cells]
    return [cell | values for cell, values in zip(cells, scaled, strict=True)], title


def _place(point: PlottedPoint, key: str) -> str:
    return text_at(point.settings, key)


def _columns(point: PlottedPoint) -> dict[str, Any]:
    """The columns of ``runs.parquet`` of a point."""
    values = {} if point.prediction is None else point.prediction.to_dict()
    return flat(values | ({} if point.changes is None else {"change": changes_as_dict(point.changes)}))


def _ends(columns: dict[str, Any], metric: str) -> dict[str, float | None]:
    """The interval of a metric, or of a change."""
    known = {end: columns.get(f"intervals_{metric}_{end}") for end in ("low", "high")}
    return {end: columns.get(f"{metric}_interval_{end}") if value is None else value for end, value in known.items()}


def _bars(
    cells: Sequence[dict[str, Any]], plot: PlotSpec, *, title: str, width: int, colours: Sequence[str]
) -> alt.LayerChart:
    """A bar for each place and each line's value, with its interval, one below the other in the order of the study."""
    alt = load_altair()
    places, names = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("over", "by"))
    rows = alt.Y("over:N", sort=places, title=None, axis=alt.Axis(labelLimit=320))
    base = alt.Chart(alt.Data(values=list(cells))).encode(y=rows, tooltip=["over:N", "by:N", "value:Q", "low:Q", "high:Q"])
    if plot.lines:
        base = base.encode(yOffset=alt.YOffset("by:N", sort=names))
    legend = alt.Legend(orient="top", title=", ".join(plot.lines), labelLimit=300) if plot.lines else None
    palette = _palette(names, colours)
    colour = alt.Color("by:N", scale=alt.Scale(domain=names, **palette), legend=legend)
    bars = base.mark_bar(height={"band": 0.8}).encode(x=alt.X("value:Q", title=title), color=colour)
    ends = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    return (bars + ends).properties(width=3 * width // 4, height=max(18 * len(cells), 60))


def _palette(names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """A colour for each name, from a gradient where there are more names than colours."""
    return {"range": list(colours[: len(names)])} if len(names) <= len(colours) else {"scheme": "viridis"}


def _lines(base: alt.Chart, by: dict[str, Any], height: alt.Y, colours: Sequence[str]) -> alt.LayerChart:
    alt = load_altair()
    names = by["sort"]
    palette = _palette(names, colours)
    legend = alt.Legend(orient="top", labelLimit=300, symbolOpacity=1) if by["title"] else None
    base = base.encode(color=alt.Color("by:N", scale=alt.Scale(domain=names, **palette), legend=legend, **by))
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q")
    return band + base.mark_line(point=True).encode(y=height)


def _heat_map(base: alt.Chart, by: dict[str, Any], title: str) -> alt.LayerChart:
    alt = load_altair()
    base = base.encode(y=alt.Y("by:O", **by))
    pale = alt.Scale(range=list(_PALE))  # numbers stay readable on both ends
    cells = base.mark_rect(stroke="white").encode(color=alt.Color("value:Q", title=title, scale=pale))
    return cells + base.mark_text().encode(text=alt.Text("value:Q", format=".3g"))
