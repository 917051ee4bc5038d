"""Charts of a validation, as SVG that takes its text colour from the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smoes_sim.display.charts import BINARY_SIZE, load_altair
from smoes_sim.report.inline import COLOURS, GREY, WIDTH, inline_svg
from smoes_sim.validation.chart import HELD_OUT, chart_rows, family_colour, scatter_chart, use_shape
from smoes_sim.validation.errors import ValidatedRow

_HEIGHT = 260


def page_rows(rows: Sequence[ValidatedRow]) -> list[dict[str, Any]]:
    """What the charts of the page draw of each row, with the page's colours."""
    return chart_rows(rows, colours=COLOURS)


def scatter_svg(rows: Sequence[ValidatedRow], *, floor: float | None) -> str:
    """Predicted over measured time; see :func:`smoes_sim.validation.chart.scatter_chart`."""
    return inline_svg(scatter_chart(rows, floor=floor, colours=COLOURS), height=WIDTH)


def histogram_svg(rows: Sequence[dict[str, Any]]) -> str:
    """Histogram of the relative errors of held-out rows."""
    alt = load_altair()
    held_out = [row for row in rows if row["use"] == HELD_OUT]
    chart = (
        alt.Chart(alt.Data(values=held_out))
        .mark_bar()
        .encode(
            x=alt.X("error:Q", bin=alt.Bin(maxbins=30), title="(predicted - measured) / measured (%)"),
            y=alt.Y("count()", title="rows"),
            color=family_colour(rows, colours=COLOURS),
        )
    )
    return inline_svg(chart, height=_HEIGHT)


def residual_svg(rows: Sequence[dict[str, Any]], *, key: str, title: str) -> str:
    """Relative error over the size of a message, the number of ranks, or the system.

    Args:
        rows: From :func:`page_rows`.
        key: ``size``, ``ranks`` or ``system``.
        title: Of the axis.
    """
    alt = load_altair()
    known = [row for row in rows if row[key]]
    if key == "system":
        x = alt.Y("system:N", title=None, axis=alt.Axis(labelLimit=190))
        places = {"y": x, "x": alt.X("error:Q", title="error (%)")}
    else:
        labels = alt.Axis(labelExpr=BINARY_SIZE, tickCount=7) if key == "size" else alt.Axis(tickCount=6, format="~d")
        x = alt.X(f"{key}:Q", scale=alt.Scale(type="log", base=2, nice=False, padding=12), title=title, axis=labels)
        places = {"x": x, "y": alt.Y("error:Q", title="error (%)")}
    points = (
        alt.Chart(alt.Data(values=known))
        .mark_point(size=28, opacity=0.8, strokeWidth=1.4)
        .encode(**places, color=family_colour(rows, colours=COLOURS), shape=use_shape(rows))
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[5, 3], color=GREY)
    zero = zero.encode(x="zero:Q") if key == "system" else zero.encode(y="zero:Q")
    height = 22 * len({row["system"] for row in known}) + 20 if key == "system" else _HEIGHT
    return inline_svg(zero + points, height=height, width=WIDTH - 150 if key == "system" else WIDTH)
