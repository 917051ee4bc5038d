"""``smoes-sim adapt``: experts placed again while the mix of modalities drifts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.adaptation.result import Adaptation

_EXAMPLE = "Write for example"


def adapt(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Shipped scenario or path of a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides, such as placement.experts=eplb.")
    ] = None,
    windows: Annotated[int, typer.Option(min=2, help="Number of windows; each has one mix of modalities.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Prefill steps of a window.")] = 100,
    every: Annotated[str, typer.Option(help="Windows between re-placements, one or more to compare.")] = "1,2,4,8",
    images: Annotated[
        Optional[str], typer.Option(metavar="FIRST:LAST", help="Share of sequences with images over time [1:0].")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON, SVG and PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Re-place experts while the mix of modalities drifts: time saved, weights moved, break-even."""
    from smoes_sim.api.study import adapt as adapt_scenario
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json, write_tables

    with compilation_told(may_compile=True):
        found = adapt_scenario(
            scenario,
            *(overrides or []),
            windows=windows,
            steps=steps,
            every=_every(every),
            images=None if images is None else _images(images),
            show_progress="lines",
        )
    if out is not None:
        write_tables(out, found.records(), found.to_dict())
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
        _plot(found, out)
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)


def _every(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--every {text}: must be whole numbers of windows. {_EXAMPLE} --every 1,2,4.") from None


def _images(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--images {text}: must be two shares. {_EXAMPLE} --images 1:0.") from None
    return first, last


def _plot(found: Adaptation, out: Path) -> None:
    """Draw it, if plotting is installed; PNG beside SVG."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        show.talk("no plot: pip install 'smoes-sim[report]'")
        return
    from smoes_sim.display.charts import save_chart

    chart = found.plot()
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"adapt.{suffix}")
    show.talk(f"plot: {out / 'adapt.png'}")
