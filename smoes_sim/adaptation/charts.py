"""A plot of re-placement over time: time of a step in each window, and the drifting mix of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoes_sim.display.charts import load_altair


def adaptation_chart(records: Sequence[Mapping[str, Any]], names: Sequence[str], *, title: str) -> Any:
    """An Altair chart: seconds of a step by window, one line per policy, above the share of vision tokens.

    Args:
        records: One row per policy and window: ``name``, ``window``, ``vision_share``, ``step_s``, ``moving_s``,
            ``imbalance``.
        names: The policies, in the order of the legend.
        title: What is shown.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    rows = [{**row, "percent": 100 * row["vision_share"]} for row in records]
    base = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("window:Q", title="window", axis=alt.Axis(tickMinStep=1)))
    lines = base.mark_line(point=True, interpolate="linear").encode(
        y=alt.Y("step_s:Q", title="time of a prefill step (s)", scale=alt.Scale(zero=False)),
        color=alt.Color("name:N", sort=list(names), title="re-placed (steps)", scale=alt.Scale(scheme="tableau10")),
        tooltip=["name:N", "window:Q", "step_s:Q", "moving_s:Q", "imbalance:Q"],
    )
    mix = base.transform_filter({"field": "name", "equal": names[0]}).mark_area(color="#7a8793", opacity=0.6)
    mix = mix.encode(y=alt.Y("percent:Q", title="vision (%)", scale=alt.Scale(domain=[0, 100])))
    head = alt.TitleParams(title, anchor="start")
    return alt.vconcat(lines.properties(width=560, height=260), mix.properties(width=560, height=70)).properties(title=head)
