"""Charts that stand in a page: SVG in the colours of the text around them, light or dark; and times in words."""

from __future__ import annotations

import re
from typing import Any

COLOURS = ("#0f8f88", "#d1495b", "#e0992f", "#4a86b8", "#8a6bb1", "#7f9c3b", "#c46a9b")
"""Seen on white and on black."""
GREY = "#7a8793"
WIDTH = 340
_ID = re.compile(r'(?<= id=")\w+(?=")|(?<=url\(#)\w+(?=\))')


def inline_svg(chart: Any, *, width: int = WIDTH, height: int) -> str:
    """SVG without a background whose text and axes have the colour of the text around it."""
    import vl_convert

    text = "currentColor"
    axis = {"labelColor": text, "titleColor": text, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
            "gridOpacity": 0.25, "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}  # fmt: skip
    styled = (
        chart.properties(width=width, height=height, background="transparent")
        .configure_axis(**axis)
        .configure_legend(labelColor=text, titleColor=text, labelFontSize=12, symbolOpacity=1)
        .configure_view(stroke=None)
    )
    return str(vl_convert.vegalite_to_svg(styled.to_json()))


def with_own_ids(svg: str, figure: int) -> str:
    """A picture whose ids are its own on the page and the same at every run; the renderer counts on from chart to chart."""
    names = list(dict.fromkeys(_ID.findall(svg)))
    return _ID.sub(lambda found: f"figure-{figure}-{names.index(found[0])}", svg)


def unit_of(value: float) -> tuple[float, str]:
    """The unit in which a time in seconds reads well, and how many seconds it has."""
    return next(((factor, unit) for factor, unit in ((1.0, "s"), (1e-3, "ms")) if value >= factor), (1e-6, "us"))


def seconds(value: float) -> str:
    """Seconds with three digits, in s, ms or us."""
    factor, unit = unit_of(value)
    return f"{value / factor:.3g} {unit}"
