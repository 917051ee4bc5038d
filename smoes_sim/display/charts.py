"""Load the plotting library, which is an extra, and save charts as SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import replacing

COLOURS = ("#7a8793", "#0b7a75", "#d1495b", "#edae49", "#30638e")
BINARY_SIZE = (
    "datum.value >= 1073741824 ? datum.value / 1073741824 + ' GiB' : datum.value >= 1048576 ? datum.value / 1048576 + ' MiB'"
    " : datum.value >= 1024 ? datum.value / 1024 + ' KiB' : datum.value + ' B'"
)
"""How an axis of sizes prints its labels (a Vega expression)."""


def check_chart_file(path: Path) -> None:
    """Refuse a name that no chart can be written to, before the work.

    Raises:
        ConfigError: If it ends neither in .svg nor in .png, or the plotting libraries are not installed.
    """
    if path.suffix not in {".svg", ".png"}:
        raise ConfigError(f'{path}: ends in "{path.suffix}": a plot is .svg or .png. Write for example plot.svg.')
    load_altair()


def save_chart(chart: Any, path: Path) -> None:
    """Write a chart as SVG or PNG, by the suffix."""
    load_altair()
    import vl_convert

    specification = chart.to_json()
    with replacing(path) as temporary:
        if path.suffix == ".svg":
            temporary.write_text(vl_convert.vegalite_to_svg(specification), encoding="utf-8")
        else:
            temporary.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))


def load_altair() -> Any:
    """Altair, which is an extra.

    Raises:
        ConfigError: If the plotting libraries are not installed.
    """
    try:
        import altair
    except ImportError:
        raise ConfigError("plots need the report extra. Install it with: pip install 'smoes-sim[report]'") from None
    return altair
