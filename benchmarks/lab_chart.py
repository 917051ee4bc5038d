"""The plot of docs/accuracy/lab-accuracy.md: error of every case against its measured time, a panel a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from smoes_sim.display.charts import save_chart

_PANELS = ("direct", "pairwise", "two_hop", "all_to_all_single", "whole MoE layers")
_LIMIT = 30.0


def save_scatter(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw rows of a validation; errors beyond 30% are drawn at the edge."""
    points = [
        {
            "panel": "whole MoE layers" if row["family"].startswith("layer, ") else row["family"].partition(", ")[2],
            "measured (s)": row["measured_s"],
            "error (%)": max(-_LIMIT, min(_LIMIT, 100 * row["relative_error"])),
            "lab": _lab(row["id"]),
        }
        for row in rows
    ]
    base = alt.Chart(alt.Data.from_dict({"values": points})).encode(
        x=alt.X("measured (s):Q", scale=alt.Scale(type="log"), axis=alt.Axis(grid=False, format="~g")),
        y=alt.Y("error (%):Q", scale=alt.Scale(domain=[-_LIMIT, _LIMIT])),
        color=alt.Color("lab:N", title=None, legend=alt.Legend(orient="bottom", columns=4)),
    )
    panels = [
        base.transform_filter(alt.datum.panel == name)
        .mark_circle(size=55, opacity=0.75)
        .properties(width=230, height=230, title=alt.TitleParams(name, anchor="start", fontSize=14))
        for name in _PANELS
    ]
    rows_of_panels = alt.vconcat(alt.hconcat(*panels[:3]), alt.hconcat(*panels[3:]))
    save_chart(rows_of_panels.configure_view(stroke=None), path)


def _lab(name: str) -> str:
    """The lab that an id begins with: the words before the first schedule or policy."""
    for word in ("-ping-pong", "-direct", "-pairwise", "-two_hop", "-all_to_all_single", "-standard", "-smoes"):
        name = name.partition(word)[0]
    return name.removeprefix("lab-")
