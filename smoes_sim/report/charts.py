"""Plots of results, as Altair specifications: the same chart gives SVG, PNG and an interactive page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.results.write import flat
from smoes_sim.sweeps.study import PlotSpec, text_at
from smoes_sim.yaml_files import nearest, replacing

if TYPE_CHECKING:
    import altair as alt

COLOURS = ("#7a8793", "#0b7a75", "#d1495b", "#edae49", "#30638e")
_PANELS = (
    ("prefill_rate", "tokens that need another rank, prefill (%)", 100.0, None),
    ("bytes_remote", "bytes between ranks, prefill (GB)", 1e-9, None),
    ("imbalance", "busiest rank / mean rank, prefill", 1.0, None),
    ("ttft_s", "TTFT (s)", 1.0, "ttft_s"),
    ("tpot_s", "TPOT (s)", 1.0, "tpot_s"),
)
_PALE = ("#f1efe9", "#6fb9b4")
_LETTER = 6
"""Width of a letter beside an axis, pixels."""
_PANEL_WIDTH = 300
"""Pixels of one of several panels of a sweep's picture."""
_WIDE = 16
"""Largest over smallest value from which an axis of a sweep's picture is logarithmic."""
BINARY_SIZE = (
    "datum.value >= 1073741824 ? datum.value / 1073741824 + ' GiB' : datum.value >= 1048576 ? datum.value / 1048576 + ' MiB'"
    " : datum.value >= 1024 ? datum.value / 1024 + ' KiB' : datum.value + ' B'"
)
"""How an axis of sizes prints its labels (a Vega expression)."""


def comparison_chart(rows: Sequence[dict[str, Any]]) -> alt.HConcatChart:
    """One panel per quantity, one bar per row; whiskers are the interval over the calibration's draws.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    labels = [_label(row) for row in rows]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    panels = []
    for number, (key, title, factor, interval) in enumerate(_PANELS):
        data = [_bar(row, label, key, factor, interval) for row, label in zip(rows, labels, strict=True)]
        data = [entry for entry in data if entry["value"] is not None]
        if not data:
            continue
        axis = alt.Axis(labelLimit=260, title=None) if number == 0 else None
        base = alt.Chart(alt.Data(values=data)).encode(y=alt.Y("row:N", sort=labels, axis=axis))
        bars = base.mark_bar(height={"band": 0.7}).encode(
            x=alt.X("value:Q", title=title),
            color=alt.Color(
                "policy:N",
                scale=alt.Scale(domain=policies, range=list(COLOURS[: len(policies)])),
                legend=alt.Legend(orient="top", title=None),
            ),
            tooltip=["row:N", "value:Q", "low:Q", "high:Q"],
        )
        whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
        panels.append((bars + whiskers).properties(width=190, height=22 * len(rows)))
    return alt.hconcat(*panels, spacing=14).configure_view(stroke=None)


def _label(row: dict[str, Any]) -> str:
    return f"{row['policy']}, experts {row['expert_placement']}, tokens {row['token_placement']}"


def _bar(row: dict[str, Any], label: str, key: str, factor: float, interval: str | None) -> dict[str, Any]:
    value = (row["transmission_rate"] or {}).get("prefill") if key == "prefill_rate" else row.get(key)
    low, high = row["intervals"].get(interval, (None, None)) if interval else (None, None)
    scale = {"value": value, "low": low, "high": high}
    scaled = {name: None if number is None else number * factor for name, number in scale.items()}
    return {"row": label, "policy": row["policy"]} | scaled


def bandwidth_chart(rows: Sequence[dict[str, Any]], *, num_ranks: int, title: str) -> alt.LayerChart:
    """Bus bandwidth over size for a sweep, the bound as a line above.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    data = []
    for row in rows:
        highest, _ = alltoall_bandwidth(row["size_bytes"], row["bound_s"], num_ranks)
        times = {"predicted": row["busbw_GBps"], "bound": highest * (num_ranks - 1) / num_ranks / 1e9}
        data += [{"size": row["size_bytes"], "busbw": value, "what": what} for what, value in times.items()]
    scale = alt.Scale(domain=["predicted", "bound"], range=[COLOURS[1], COLOURS[0]])
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("size:Q", scale=alt.Scale(type="log", base=2), title="size", axis=alt.Axis(labelExpr=BINARY_SIZE)),
        y=alt.Y("busbw:Q", title="busbw (GB/s)", scale=alt.Scale(zero=True)),
        color=alt.Color("what:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
    )
    bound = base.transform_filter("datum.what == 'bound'").mark_line(strokeDash=[5, 3])
    predicted = base.transform_filter("datum.what == 'predicted'").mark_line(point=True)
    return (bound + predicted).properties(title=alt.TitleParams(title, anchor="start"), width=560, height=320)


def link_use_chart(use: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> alt.Chart:
    """Share of capacity in use over time, a panel per link (or links), from (seconds, share) steps.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    data = [
        {"link": link, "ms": moment * 1e3, "percent": 100 * share} for link, steps in use.items() for moment, share in steps
    ]
    percent = alt.Scale(domain=[0, 100])
    header = alt.Header(labelOrient="top", labelAnchor="start", labelPadding=2)
    heading = alt.TitleParams(title, subtitle="use of the busiest links, % of capacity", anchor="start")
    return (
        alt.Chart(alt.Data(values=data))
        .mark_area(interpolate="step-after", opacity=0.85, color=COLOURS[1])
        .encode(
            x=alt.X("ms:Q", title="time (ms)", scale=alt.Scale(nice=False)),
            y=alt.Y("percent:Q", title="%", stack=None, scale=percent, axis=alt.Axis(values=[0, 50, 100])),
            row=alt.Row("link:N", sort=list(use), title=None, header=header),
        )
        .properties(width=640, height=44, title=heading)
        .configure_facet(spacing=6)
    )


def sweep_chart(rows: Sequence[dict[str, Any]], plot: PlotSpec, *, width: int = 560) -> alt.LayerChart | alt.FacetChart:
    """A metric of a sweep over a swept key: lines or bars with their intervals, or a heat map.

    Numbers are laid out as numbers, all else in the order of the study, with slanted labels where they would touch; points
    without the metric are left out.

    Raises:
        ConfigError: If no row has the metric as a number, or the plotting libraries are not installed.
    """
    alt = load_altair()
    data = _cells(rows, plot)
    width = width if plot.panels is None else _PANEL_WIDTH
    picture = _bars(data, plot, width=width) if plot.kind == "bars" else _over(data, plot, width=width)
    if plot.panels is None:
        return picture
    panels = list(dict.fromkeys(cell["panel"] for cell in data))
    header = alt.Header(labelFontWeight="bold", labelLimit=_PANEL_WIDTH)
    return picture.facet(column=alt.Column("panel:N", sort=panels, title=None, header=header))


def _over(data: Sequence[dict[str, Any]], plot: PlotSpec, *, width: int) -> alt.LayerChart:
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
    height = alt.Y("value:Q", title=plot.metric, scale=_scale([cell["value"] for cell in data], zero=True))
    picture = _lines(base, by, height) if plot.kind == "lines" else _heat_map(base, by, plot.metric)
    return picture.properties(width=width, height=320)


def _scale(values: Sequence[float], *, zero: bool) -> alt.Scale:
    """Logarithmic where values differ by much; otherwise linear, from zero on if ``zero``."""
    is_wide = min(values) > 0 and max(values) >= _WIDE * min(values)
    return load_altair().Scale(type="log", nice=False, padding=12) if is_wide else load_altair().Scale(zero=zero)


def _cells(rows: Sequence[dict[str, Any]], plot: PlotSpec) -> list[dict[str, Any]]:
    """What is drawn of each row that has the metric."""
    table = [flat(row) for row in rows]
    metrics = {name for row in table for name, value in row.items() if type(value) in {int, float}}
    if plot.metric not in metrics:
        raise ConfigError(f'plot.metric = "{plot.metric}" is no number of this sweep. {nearest(plot.metric, metrics)}')
    return [
        {
            "over": place if type(place := row["set"].get(plot.over)) in {int, float} else text_at(row["set"], plot.over),
            "by": ", ".join(text_at(row["set"], key) for key in plot.lines),
            "value": columns[plot.metric],
            **_ends(columns, plot.metric),
        }
        | ({"panel": text_at(row["set"], plot.panels)} if plot.panels else {})
        for row, columns in zip(rows, table, strict=True)
        if columns.get(plot.metric) is not None
    ]


def _ends(columns: dict[str, Any], metric: str) -> dict[str, float | None]:
    """The interval of a metric, or of a change."""
    known = {end: columns.get(f"intervals_{metric}_{end}") for end in ("low", "high")}
    return {end: columns.get(f"{metric}_interval_{end}") if value is None else value for end, value in known.items()}


def _bars(cells: Sequence[dict[str, Any]], plot: PlotSpec, *, width: int) -> alt.LayerChart:
    """A bar for each place and each line's value, with its interval, one below the other in the order of the study."""
    alt = load_altair()
    places, names = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("over", "by"))
    rows = alt.Y("over:N", sort=places, title=None, axis=alt.Axis(labelLimit=320))
    base = alt.Chart(alt.Data(values=list(cells))).encode(y=rows, tooltip=["over:N", "by:N", "value:Q", "low:Q", "high:Q"])
    if plot.lines:
        base = base.encode(yOffset=alt.YOffset("by:N", sort=names))
    legend = alt.Legend(orient="top", title=", ".join(plot.lines), labelLimit=300) if plot.lines else None
    palette = {"range": list(COLOURS[: len(names)])} if len(names) <= len(COLOURS) else {"scheme": "viridis"}
    colour = alt.Color("by:N", scale=alt.Scale(domain=names, **palette), legend=legend)
    bars = base.mark_bar(height={"band": 0.8}).encode(x=alt.X("value:Q", title=plot.metric), color=colour)
    ends = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    return (bars + ends).properties(width=3 * width // 4, height=max(18 * len(cells), 60))


def _lines(base: alt.Chart, by: dict[str, Any], height: alt.Y) -> alt.LayerChart:
    alt = load_altair()
    names = by["sort"]
    palette = {"range": list(COLOURS[: len(names)])} if len(names) <= len(COLOURS) else {"scheme": "viridis"}
    legend = alt.Legend(orient="top", labelLimit=300, symbolOpacity=1) if by["title"] else None
    base = base.encode(color=alt.Color("by:N", scale=alt.Scale(domain=names, **palette), legend=legend, **by))
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q")
    return band + base.mark_line(point=True).encode(y=height)


def _heat_map(base: alt.Chart, by: dict[str, Any], metric: str) -> alt.LayerChart:
    alt = load_altair()
    base = base.encode(y=alt.Y("by:O", **by))
    pale = alt.Scale(range=list(_PALE))  # numbers stay readable on both ends
    cells = base.mark_rect(stroke="white").encode(color=alt.Color("value:Q", title=metric, scale=pale))
    return cells + base.mark_text().encode(text=alt.Text("value:Q", format=".3g"))


def check_chart_file(path: Path) -> None:
    """Refuse a name that no chart can be written to, before the work.

    Raises:
        ConfigError: If it ends neither in .svg nor in .png, or the plotting libraries are not installed.
    """
    if path.suffix not in {".svg", ".png"}:
        raise ConfigError(f'{path}: ends in "{path.suffix}": a plot is .svg or .png. Write for example plot.svg.')
    load_altair()


def save_chart(chart: Any, path: Path) -> None:
    """Write a chart as SVG or PNG, by the suffix."""
    load_altair()
    import vl_convert

    specification = chart.to_json()
    with replacing(path) as temporary:
        if path.suffix == ".svg":
            temporary.write_text(vl_convert.vegalite_to_svg(specification), encoding="utf-8")
        else:
            temporary.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))


def load_altair() -> Any:
    """Altair, which is an extra.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    try:
        import altair
    except ImportError:
        raise ConfigError("plots need the report extra. Install it with: pip install 'smoes-sim[report]'") from None
    return altair
