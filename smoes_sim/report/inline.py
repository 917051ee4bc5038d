"""Charts inside a page: SVG that takes its text colour from the page, light or dark."""

from __future__ import annotations

import re
from typing import Any

COLOURS = ("#0f8f88", "#d1495b", "#e0992f", "#4a86b8", "#8a6bb1", "#7f9c3b", "#c46a9b")
"""Readable on white and on black."""
GREY = "#7a8793"
WIDTH = 340
_ID = re.compile(r'(?<= id=")\w+(?=")|(?<=url\(#)\w+(?=\))')


def inline_svg(chart: Any, *, width: int = WIDTH, height: int) -> str:
    """SVG of a chart without a background; text and axes have the text colour of the page."""
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
    """A picture whose ids are unique on the page and the same in every run; the renderer numbers them over all charts."""
    names = list(dict.fromkeys(_ID.findall(svg)))
    return _ID.sub(lambda found: f"figure-{figure}-{names.index(found[0])}", svg)
