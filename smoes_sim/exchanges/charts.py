"""Charts of bus bandwidth over size, and of the use of links over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from smoes_sim.display.charts import BINARY_SIZE, COLOURS, load_altair
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.exchanges.timing import AlltoallRow

if TYPE_CHECKING:
    import altair as alt


def bandwidth_chart(rows: Sequence[AlltoallRow], *, num_ranks: int, title: str) -> alt.LayerChart:
    """Chart of bus bandwidth over size, with the bound as a dashed line.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    data = []
    for row in rows:
        highest, _ = alltoall_bandwidth(row.size_bytes, row.bound_s, num_ranks)
        times = {"predicted": row.busbw_GBps, "bound": highest * (num_ranks - 1) / num_ranks / 1e9}
        data += [{"size": row.size_bytes, "busbw": value, "what": what} for what, value in times.items()]
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
    """Chart of the share of capacity in use over time, one panel per link or group of links.

    Args:
        use: Steps of (seconds, share) by label.
        title: Title of the chart.

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
