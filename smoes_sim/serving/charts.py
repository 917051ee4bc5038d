"""The picture of a service: how many requests meet the objective, and goodput, over the rate at which they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import COLOURS, load_altair

if TYPE_CHECKING:
    import altair as alt

_PANELS = (("attainment", "requests that meet it (%)", 100.0), ("goodput_per_s", "goodput (requests/s)", 1.0))


def goodput_chart(rows: Sequence[dict[str, Any]], *, max_rate: float, wanted: float, title: str) -> alt.HConcatChart:
    """Share of requests that meet the objective and goodput over rate; bands are intervals over the constants.

    Args:
        rows: Rows of a curve.
        max_rate: Largest rate that keeps the objective, a vertical rule.
        wanted: Share that keeps it, a horizontal rule.
        title: Above both.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    panels = []
    for key, name, factor in _PANELS:
        data = [_point(row, key, factor) for row in rows]
        x = alt.X("rate:Q", title="arrivals (requests/s)", scale=alt.Scale(zero=True))
        scale = alt.Scale(domain=[0, 100]) if key == "attainment" else alt.Scale(zero=True)
        base = alt.Chart(alt.Data(values=data)).encode(x=x)
        band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.2, color=COLOURS[1])
        layers = [
            band.encode(y=alt.Y("low:Q", title=name, scale=scale), y2="high:Q"),
            base.mark_line(point={"color": COLOURS[1]}, color=COLOURS[1]).encode(
                y=alt.Y("value:Q", title=name, scale=scale), tooltip=["rate:Q", "value:Q", "low:Q", "high:Q"]
            ),
            alt.Chart(alt.Data(values=[{"rate": max_rate}])).mark_rule(strokeDash=[5, 3], color=COLOURS[0]).encode(x=x),
        ]
        if key == "attainment":
            rule = alt.Chart(alt.Data(values=[{"value": factor * wanted}])).mark_rule(strokeDash=[5, 3], color=COLOURS[0])
            layers.append(rule.encode(y=alt.Y("value:Q", title=name, scale=scale)))
        panels.append(alt.layer(*layers).properties(width=300, height=240))
    heading = alt.TitleParams(title, anchor="start")
    return alt.hconcat(*panels, spacing=20).properties(title=heading).configure_view(stroke=None)


def _point(row: dict[str, Any], key: str, factor: float) -> dict[str, Any]:
    low, high = row["intervals"].get(key, (None, None))
    scaled = {name: None if value is None else factor * value for name, value in (("low", low), ("high", high))}
    return {"rate": row["rate_per_s"], "value": factor * row[key]} | scaled
