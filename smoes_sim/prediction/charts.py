"""Predictions side by side as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import COLOURS, load_altair

if TYPE_CHECKING:
    import altair as alt

_PANELS = (
    ("rate", "tokens that need another rank, {} (%)", 100.0),
    ("bytes_remote", "bytes between ranks, {} (GB)", 1e-9),
    ("imbalance", "busiest rank / mean rank, {}", 1.0),
    ("ttft_s", "TTFT (s)", 1.0),
    ("tpot_s", "TPOT (s)", 1.0),
)
"""Quantity, title of its panel with a place for the pass, factor from the SI unit to that of the title."""


def comparison_chart(predictions: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> alt.HConcatChart:
    """One panel per quantity, one bar per prediction; whiskers are intervals.

    Args:
        predictions: JSON documents of predictions.
        labels: A different name for each.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    policies = list(dict.fromkeys(row["policy"] for row in predictions))
    passes = dict.fromkeys(_pass_of(row) for row in predictions)
    panels: list[Any] = []
    for key, title, factor in _PANELS:
        data = [_bar(row, label, key, factor) for row, label in zip(predictions, labels, strict=True)]
        data = [entry for entry in data if entry["value"] is not None]
        if not data:
            continue
        axis = None if panels else alt.Axis(labelLimit=260, title=None)
        base = alt.Chart(alt.Data(values=data)).encode(y=alt.Y("row:N", sort=list(labels), axis=axis))
        bars = base.mark_bar(height={"band": 0.7}).encode(
            x=alt.X("value:Q", title=title.format(" or ".join(passes))),
            color=alt.Color(
                "policy:N",
                scale=alt.Scale(domain=policies, range=list(COLOURS[: len(policies)])),
                legend=alt.Legend(orient="top", title=None),
            ),
            tooltip=["row:N", "value:Q", "low:Q", "high:Q"],
        )
        whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
        panels.append((bars + whiskers).properties(width=190, height=22 * len(predictions)))
    return alt.hconcat(*panels, spacing=14).configure_view(stroke=None)


def _pass_of(row: Mapping[str, Any]) -> str:
    """The pass that quantities without the name of a phase describe."""
    return "decode" if row.get("phase") == "decode" else "prefill"


def _bar(row: Mapping[str, Any], label: str, key: str, factor: float) -> dict[str, Any]:
    value = (row["transmission_rate"] or {}).get(_pass_of(row)) if key == "rate" else row.get(key)
    ends = row["intervals"].get(key)
    low, high = (None, None) if ends is None else (factor * ends[0], factor * ends[1])
    return {
        "row": label,
        "policy": row["policy"],
        "value": None if value is None else value * factor,
        "low": low,
        "high": high,
    }
