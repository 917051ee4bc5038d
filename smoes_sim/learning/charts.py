"""Chart of a study: which modality each expert serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from smoes_sim.display.charts import load_altair
from smoes_sim.learning.unit_result import UnitResult

if TYPE_CHECKING:
    import altair as alt

_TEXT, _MIXED, _VISION = "#30638e", "#f1efe9", "#d1495b"


def share_chart(results: Mapping[str, UnitResult]) -> alt.HConcatChart:
    """Vision share of each expert: a panel per variant, a row per layer, a cell per expert from lowest to highest share.

    Args:
        results: Result of one seed of each variant to show, by title, from left to right.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    alt = load_altair()
    panels = []
    for number, (title, result) in enumerate(results.items()):
        test = result.routed()
        data = [cell for layer, shares in enumerate(test.text_share) for cell in _cells(layer, shares)]
        scale = alt.Scale(domain=[0, 50, 100], range=[_TEXT, _MIXED, _VISION], interpolate="rgb")
        legend = alt.Legend(
            title="what the expert receives",
            orient="bottom",
            gradientLength=330,
            values=[0, 50, 100],
            labelExpr="datum.value == 0 ? 'text only' : datum.value == 50 ? 'half each' : 'vision only'",
        )
        panel = (
            alt.Chart(alt.Data(values=data))
            .mark_rect(stroke="white", strokeWidth=0.5)
            .encode(
                x=alt.X(
                    "place:O",
                    title="experts of a layer, sorted (gap: unused)",
                    axis=alt.Axis(labels=False, ticks=False),
                ),
                y=alt.Y("layer:N", title=None, axis=None if number else alt.Axis(ticks=False, domain=False)),
                color=alt.Color("vision:Q", scale=scale, legend=legend),
                tooltip=["layer:N", "expert:Q", "vision:Q"],
            )
        )
        subtitle = f"specialisation {test.msi:.2f}" + (
            "" if result.accuracy is None else f", {result.accuracy:.1%} of questions right"
        )
        panels.append(panel.properties(width=330, height=150, title=alt.Title(title, subtitle=subtitle, anchor="start")))
    return alt.hconcat(*panels, spacing=24).configure_view(stroke=None)


class _Cell(TypedDict):
    """A mark of the chart, as Vega reads it; ``vision`` is a share in %."""

    layer: str
    place: int
    expert: int
    vision: float


def _cells(layer: int, text_shares: Sequence[float | None]) -> list[_Cell]:
    """Experts of a layer from text to vision, without those that no token used."""
    used = [(100 * (1 - share), expert) for expert, share in enumerate(text_shares) if share is not None]
    return [
        {"layer": f"layer {layer}", "place": place, "expert": expert, "vision": vision}
        for place, (vision, expert) in enumerate(sorted(used))
    ]
