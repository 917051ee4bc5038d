"""Charts of a report as SVG that takes its text colour from the page around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smoes_sim.display.charts import load_altair
from smoes_sim.display.tables import seconds
from smoes_sim.report.inline import COLOURS, GREY, WIDTH, inline_svg
from smoes_sim.report.inside import PassPart, SlotShare
from smoes_sim.sweeps.charts import PlottedPoint, sweep_chart
from smoes_sim.sweeps.study import PlotSpec

_PARTS = (
    "outside layers", "attention", "gate", "shared", "dense", "experts", "head", "gather", "scatter",
    "dispatch", "combine", "waiting"
)  # fmt: skip
_PART_COLOURS = (
    "#5f6b73", "#4a86b8", "#8fb3d1", "#8a6bb1", "#b39ad1", "#0f8f88", "#7f9c3b", "#c46a9b", "#e0a3c4",
    "#d1495b", "#e0992f", "#9aa6af"
)  # fmt: skip
_TEXT_IMAGE = ("#4a86b8", "#d9dee2", "#d1495b")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """An option of a plan: price per hour, how many times what is asked it reaches, and the interval of that."""

    cost: float
    margin: float
    low: float
    high: float
    tried: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TradePoint:
    """A deployment: a latency in seconds and output tokens per second, with their intervals."""

    label: str
    latency: float
    latency_ends: tuple[float, float]
    rate: float
    rate_ends: tuple[float, float]


def frontier_svg(points: Sequence[FrontierPoint], *, currency: str, lowest: float) -> str:
    """How far each option is inside what is asked, over its price; above the line it meets everything.

    Args:
        points: The options.
        currency: Currency of the price.
        lowest: Smallest margin on the logarithmic axis; lower ends of intervals are drawn there.
    """
    alt = load_altair()
    data = [asdict(point) | {"low": max(point.low, lowest)} for point in points]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("cost:Q", title=f"{currency} per hour", scale=alt.Scale(zero=True)),
        color=_by("tried", [point.tried for point in points]),
    )
    height = alt.Y(
        "margin:Q", title="times what is asked (1 is just met)", scale=alt.Scale(type="log", nice=False, padding=12)
    )
    rule = alt.Chart(alt.Data(values=[{"y": 1}])).mark_rule(strokeDash=[5, 3], color=GREY).encode(y="y:Q")
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(y=height)
    words = base.mark_text(align="left", dx=8, fontSize=11).encode(y=height, text="label:N")
    return inline_svg(rule + bars + dots + words, height=300)


def trade_svg(points: Sequence[TradePoint], latency: str) -> str:
    """Output tokens per second over a latency of this name: up and to the left is better."""
    alt = load_altair()
    unit, factor = _unit_of(max(point.latency_ends[1] for point in points))
    data = [
        {
            "label": point.label,
            "latency": point.latency / factor,
            "latency_low": point.latency_ends[0] / factor,
            "latency_high": point.latency_ends[1] / factor,
            "rate": point.rate,
            "rate_low": point.rate_ends[0],
            "rate_high": point.rate_ends[1],
        }
        for point in points
    ]
    base = alt.Chart(alt.Data(values=data)).encode(color=_by("label", [point.label for point in points]))
    x = alt.X("latency:Q", title=f"{latency} ({unit})", scale=alt.Scale(zero=False, padding=12))
    y = alt.Y("rate:Q", title="output tokens/s", scale=alt.Scale(zero=False, padding=12))
    across = base.mark_rule(strokeWidth=1.2).encode(x=alt.X("latency_low:Q"), x2="latency_high:Q", y=y)
    along = base.mark_rule(strokeWidth=1.2).encode(x=x, y=alt.Y("rate_low:Q"), y2="rate_high:Q")
    return inline_svg(across + along + base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y), height=260)


def _unit_of(value: float) -> tuple[str, float]:
    """The unit of an axis of times, and its seconds."""
    return next(((unit, factor) for factor, unit in ((1.0, "s"), (1e-3, "ms")) if value >= factor), ("us", 1e-6))


def sweep_svg(points: Sequence[PlottedPoint], metric: str, over: str, by: str | None) -> str:
    """A metric over a swept key, a line for each value of another, with its interval.

    Args:
        points: The points of a sweep.
        metric: A column, such as ``ttft_s``.
        over: The swept key along the axis.
        by: The swept key that makes the lines; None for one line.
    """
    chart = sweep_chart(points, PlotSpec(metric=metric, over=over, by=by), width=WIDTH, colours=COLOURS)
    return inline_svg(chart, height=240)


def time_svg(parts: Sequence[PassPart]) -> str:
    """Where the time of a pass goes on one rank, in percent."""
    alt = load_altair()
    totals: dict[str, float] = {}
    for row in parts:
        totals[row.of] = totals.get(row.of, 0.0) + row.seconds
    known = [name for name in _PARTS if any(row.part == name for row in parts)]
    known += sorted({row.part for row in parts} - set(known))
    colours = dict(zip(_PARTS, _PART_COLOURS, strict=True))
    data = [
        {
            "pass": f"{row.of}, {seconds(totals[row.of])}",
            "part": row.part,
            "order": known.index(row.part),
            "percent": 100 * row.seconds / totals[row.of],
        }
        for row in parts
    ]
    scale = alt.Scale(domain=known, range=[colours.get(name, GREY) for name in known])
    bars = (
        alt.Chart(alt.Data(values=data))
        .mark_bar()
        .encode(
            x=alt.X("percent:Q", title="% of the pass", scale=alt.Scale(domain=[0, 100], nice=False)),
            y=alt.Y("pass:N", sort=None, title=None, axis=alt.Axis(labelLimit=140)),
            color=alt.Color("part:N", scale=scale, legend=alt.Legend(orient="bottom", title=None, columns=4)),
            order="order:Q",
        )
    )
    return inline_svg(bars, width=WIDTH - 110, height=45 * len(totals) + 15)


def modality_svg(rows: Sequence[SlotShare]) -> str:
    """Share of tokens that are not text, by MoE layer and expert, experts in the order of the ranks that hold them."""
    alt = load_altair()
    slots = {row.slot: row.rank for row in rows}
    edges = [{"slot": slot} for slot in slots if slot and slots[slot] != slots[slot - 1]]
    layers = sorted({row.layer for row in rows})
    data = [
        {"left": row.slot, "right": row.slot + 1, "row": layers.index(row.layer), "percent": 100 * row.share}
        for row in rows
        if row.share is not None
    ]
    data = [item | {"below": item["row"] + 1} for item in data]
    whole = alt.Axis(tickMinStep=1, format="d")
    scale = alt.Scale(domain=[0, len(slots)], nice=False)
    x = alt.X("left:Q", title="experts in the order of ranks", scale=scale, axis=whole)
    y = alt.Y("row:Q", title="MoE layer", scale=alt.Scale(domain=[len(layers), 0], nice=False), axis=alt.Axis(labels=False))
    colour = alt.Color(
        "percent:Q",
        title="not text (%)",
        scale=alt.Scale(domain=[0, 50, 100], range=list(_TEXT_IMAGE)),
        legend=alt.Legend(orient="bottom", gradientLength=200, direction="horizontal"),
    )
    cells = alt.Chart(alt.Data(values=data)).mark_rect().encode(x=x, x2="right:Q", y=y, y2="below:Q", color=colour)
    rules = alt.Chart(alt.Data(values=edges)).mark_rule(color="#14181b", strokeWidth=1).encode(x=alt.X("slot:Q"))
    return inline_svg(cells + rules if edges else cells, height=220)


def _by(key: str, values: Sequence[str]) -> Any:
    """A colour for each value; colours repeat beyond seven."""
    alt = load_altair()
    names = list(dict.fromkeys(values))
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(names))]
    legend = alt.Legend(orient="bottom", title=None, columns=1, labelLimit=380, symbolLimit=12)
    return alt.Color(f"{key}:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
