"""The study's picture: which modality each expert serves, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import load_altair

if TYPE_CHECKING:
    import altair as alt

_TEXT, _MIXED, _VISION = "#30638e", "#f1efe9", "#d1495b"


def share_chart(results: Mapping[str, Mapping[str, Any]]) -> alt.HConcatChart:
    """One panel per variant, a row per layer, a cell per expert in order of its vision share; colour is the share.

    Args:
        results: One result (a seed) of each variant to show, by title, from left to right.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    panels = []
    for number, (title, result) in enumerate(results.items()):
        test = result["sets"]["test"]
        data = [cell for layer, shares in enumerate(test["text_share"]) for cell in _cells(layer, shares)]
        scale = alt.Scale(domain=[0, 50, 100], range=[_TEXT, _MIXED, _VISION], interpolate="rgb")
        legend = alt.Legend(
            title="what the expert receives",
            orient="bottom",
            gradientLength=330,
            values=[0, 50, 100],
            labelExpr="datum.value == 0 ? 'text only' : datum.value == 50 ? 'both alike' : 'vision only'",
        )
        panel = (
            alt.Chart(alt.Data(values=data))
            .mark_rect(stroke="white", strokeWidth=0.5)
            .encode(
                x=alt.X(
                    "place:O",
                    title="experts, each layer sorted (a gap: never used)",
                    axis=alt.Axis(labels=False, ticks=False),
                ),
                y=alt.Y("layer:N", title=None, axis=None if number else alt.Axis(ticks=False, domain=False)),
                color=alt.Color("vision:Q", scale=scale, legend=legend),
                tooltip=["layer:N", "expert:Q", "vision:Q"],
            )
        )
        subtitle = f"specialisation {test['msi']:.2f}, {result['accuracy']:.1%} of questions right"
        panels.append(panel.properties(width=330, height=150, title=alt.Title(title, subtitle=subtitle, anchor="start")))
    return alt.hconcat(*panels, spacing=24).configure_view(stroke=None)


def _cells(layer: int, text_shares: list[float | None]) -> list[dict[str, Any]]:
    """Experts of a layer from text to vision; an expert that nobody used is left out."""
    used = [(100 * (1 - share), expert) for expert, share in enumerate(text_shares) if share is not None]
    return [
        {"layer": f"layer {layer}", "place": place, "expert": expert, "vision": vision}
        for place, (vision, expert) in enumerate(sorted(used))
    ]
