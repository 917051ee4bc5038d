"""Predictions side by side as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import COLOURS, load_altair

if TYPE_CHECKING:
    import altair as alt

_PANELS = (
    ("prefill_rate", "tokens that need another rank, prefill (%)", 100.0, None),
    ("bytes_remote", "bytes between ranks, prefill (GB)", 1e-9, None),
    ("imbalance", "busiest rank / mean rank, prefill", 1.0, None),
    ("ttft_s", "TTFT (s)", 1.0, "ttft_s"),
    ("tpot_s", "TPOT (s)", 1.0, "tpot_s"),
)


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
