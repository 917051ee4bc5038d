"""Chart of predicted over measured times."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import COLOURS, load_altair
from smoes_sim.validation.errors import ValidatedRow

if TYPE_CHECKING:
    import altair as alt

GREY = "#7a8793"
HELD_OUT, FITTED = "held out", "fitted"
_OTHERS = "others"
_TIME = (
    "datum.value >= 1 ? datum.value + ' s' : datum.value >= 1e-3 ? round(datum.value * 1e6) / 1e3 + ' ms'"
    " : round(datum.value * 1e9) / 1e3 + ' us'"
)
"""How an axis of seconds prints its labels (a Vega expression)."""


def chart_rows(rows: Sequence[ValidatedRow], *, colours: Sequence[str] = COLOURS) -> list[dict[str, Any]]:
    """What the charts draw of each row: errors in %, and a family that has a colour; the rarest families share one."""
    most = [name for name, _ in Counter(row.family for row in rows).most_common(len(colours))]
    return [
        {
            "id": row.id,
            "measured": row.measured_s,
            "predicted": row.predicted_s,
            "error": 100 * row.relative_error,
            "size": row.size_bytes,
            "ranks": row.ranks,
            "system": row.system,
            "family": row.family if row.family in most else _OTHERS,
            "use": FITTED if row.in_sample else HELD_OUT,
        }
        for row in rows
    ]


def scatter_chart(rows: Sequence[ValidatedRow], *, floor: float | None, colours: Sequence[str] = COLOURS) -> alt.LayerChart:
    """Predicted over measured time, both logarithmic, with the identity and the band of repeatability.

    Args:
        rows: Predicted rows, at least one.
        floor: Relative difference between repeats or sites, drawn as a band; no band where it is None.
        colours: Colours of the families.
    """
    alt = load_altair()
    drawn = chart_rows(rows, colours=colours)
    times = [row[key] for row in drawn for key in ("measured", "predicted")]
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
        alt.Chart(alt.Data(values=drawn))
        .mark_point(size=40, opacity=0.8, strokeWidth=1.4)
        .encode(
            x=alt.X("measured:Q", scale=scale),
            y=alt.Y("predicted:Q", scale=scale),
            color=family_colour(drawn, colours=colours),
            shape=use_shape(drawn),
        )
    )
    return area + identity + points if band else identity + points


def family_colour(rows: Sequence[dict[str, Any]], *, colours: Sequence[str] = COLOURS) -> alt.Color:
    """Colour by family, for rows of :func:`chart_rows`."""
    alt = load_altair()
    names = sorted({row["family"] for row in rows} - {_OTHERS})
    names += [_OTHERS] * any(row["family"] == _OTHERS for row in rows)
    used = [GREY if name == _OTHERS else colours[index] for index, name in enumerate(names)]
    legend = alt.Legend(orient="bottom", title=None, columns=1, labelLimit=380)
    return alt.Color("family:N", scale=alt.Scale(domain=names, range=used), legend=legend)


def use_shape(rows: Sequence[dict[str, Any]]) -> alt.Shape:
    """Circles for held-out rows, triangles for fitted ones; the legend is left out where all are the same."""
    alt = load_altair()
    legend = alt.Legend(orient="bottom", title=None) if len({row["use"] for row in rows}) > 1 else None
    scale = alt.Scale(domain=[HELD_OUT, FITTED], range=["circle", "triangle-up"])
    return alt.Shape("use:N", scale=scale, legend=legend)
