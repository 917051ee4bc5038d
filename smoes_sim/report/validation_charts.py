"""Charts of predicted against measured times, as SVG that takes its text colour from the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from smoes_sim.display.charts import BINARY_SIZE, load_altair
from smoes_sim.report.inline import COLOURS, GREY, WIDTH, inline_svg

Row = dict[str, Any]
_OTHERS = "others"
_HEIGHT = 260
_TIME = (
    "datum.value >= 1 ? datum.value + ' s' : datum.value >= 1e-3 ? round(datum.value * 1e6) / 1e3 + ' ms'"
    " : round(datum.value * 1e9) / 1e3 + ' us'"
)
"""How an axis of seconds prints its labels (a Vega expression)."""
_SHOWN = "held out", "fitted"


def chart_rows(rows: Sequence[Row]) -> list[Row]:
    """What the charts draw of each row: errors in %, and a family that has a colour."""
    most = [name for name, _ in Counter(row["family"] for row in rows).most_common(len(COLOURS))]
    return [
        {
            "measured": row["measured_s"],
            "predicted": row["predicted_s"],
            "error": 100 * row["relative_error"],
            "size": row["size_bytes"],
            "ranks": row["ranks"],
            "system": row["system"],
            "family": row["family"] if row["family"] in most else _OTHERS,
            "use": _SHOWN[bool(row["in_sample"])],
        }
        for row in rows
    ]


def scatter_svg(rows: Sequence[Row], *, floor: float | None) -> str:
    """Predicted over measured time, both logarithmic, with the identity and the band of repeatability.

    Args:
        rows: From :func:`chart_rows`.
        floor: Relative difference between repeats or sites; no band when left out.
    """
    alt = load_altair()
    times = [row[key] for row in rows for key in ("measured", "predicted")]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times)) + 1e-9)
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    marks = (1, 2, 5) if len(decades) <= 3 else (1,)
    axis = alt.Axis(labelExpr=_TIME, values=[mark * 10.0**decade for decade in decades for mark in marks])
    band = floor or 0.0
    ends = [{"x": x, "low": x * (1 - band), "y": x, "high": x * (1 + band)} for x in (low, high)]
    line = alt.Chart(alt.Data(values=ends)).encode(x=alt.X("x:Q", scale=scale, title="measured", axis=axis))
    identity = line.mark_line(strokeDash=[5, 3], color=GREY).encode(
        y=alt.Y("y:Q", scale=scale, title="predicted", axis=axis)
    )
    area = line.mark_area(color=GREY, opacity=0.25, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    points = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_point(size=40, opacity=0.8, strokeWidth=1.4)
        .encode(
            x=alt.X("measured:Q", scale=scale),
            y=alt.Y("predicted:Q", scale=scale),
            color=_colour(rows),
            shape=_shape(rows),
        )
    )
    return inline_svg((area + identity + points) if band else (identity + points), height=WIDTH)


def histogram_svg(rows: Sequence[Row]) -> str:
    """How many held-out rows have which relative error."""
    alt = load_altair()
    held_out = [row for row in rows if row["use"] == _SHOWN[0]]
    chart = (
        alt.Chart(alt.Data(values=held_out))
        .mark_bar()
        .encode(
            x=alt.X("error:Q", bin=alt.Bin(maxbins=30), title="(predicted - measured) / measured (%)"),
            y=alt.Y("count()", title="rows"),
            color=_colour(rows),
        )
    )
    return inline_svg(chart, height=_HEIGHT)


def residual_svg(rows: Sequence[Row], *, key: str, title: str) -> str:
    """Relative error over the size of a message, the number of ranks, or the system.

    Args:
        rows: From :func:`chart_rows`.
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
        .encode(**places, color=_colour(rows), shape=_shape(rows))
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[5, 3], color=GREY)
    zero = zero.encode(x="zero:Q") if key == "system" else zero.encode(y="zero:Q")
    height = 22 * len({row["system"] for row in known}) + 20 if key == "system" else _HEIGHT
    return inline_svg(zero + points, height=height, width=WIDTH - 150 if key == "system" else WIDTH)


def _colour(rows: Sequence[Row]) -> Any:
    alt = load_altair()
    names = sorted({row["family"] for row in rows} - {_OTHERS})
    names += [_OTHERS] * any(row["family"] == _OTHERS for row in rows)
    colours = [GREY if name == _OTHERS else COLOURS[index] for index, name in enumerate(names)]
    legend = alt.Legend(orient="bottom", title=None, columns=1, labelLimit=380)
    return alt.Color("family:N", scale=alt.Scale(domain=names, range=colours), legend=legend)


def _shape(rows: Sequence[Row]) -> Any:
    alt = load_altair()
    legend = alt.Legend(orient="bottom", title=None) if len({row["use"] for row in rows}) > 1 else None
    return alt.Shape("use:N", scale=alt.Scale(domain=list(_SHOWN), range=["circle", "triangle-up"]), legend=legend)
