"""``smoes-sim serve``: how long users wait, and how many a deployment can serve."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told

if TYPE_CHECKING:
    from smoes_sim.serving import ServiceCurve

_NUMBER = 400
"""Requests of a run when neither a number nor a duration is given."""


def serve(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Shipped scenario or path of a file.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides, such as seed=1.")] = None,
    rate: Annotated[Optional[str], typer.Option(metavar="R/s", help="Poisson arrivals, such as 2/s.")] = None,
    arrivals: Annotated[
        Optional[Path],
        typer.Option(help="Requests (CSV or JSON lines): arrival_s, prompt_tokens, output_tokens[, images]."),
    ] = None,
    slo: Annotated[
        Optional[str],
        typer.Option(help="Objective, such as ttft=2s,tpot=50ms; with neither rate nor arrivals the largest rate is found."),
    ] = None,
    requests: Annotated[Optional[int], typer.Option(min=1, help=f"How many arrive. [{_NUMBER}]")] = None,
    duration: Annotated[Optional[str], typer.Option(help='All that arrive in this time, such as "60 s".')] = None,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an attention group in a step.")] = 8192,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences of a group that run at a time.")] = 256,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON, the scenario and the plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Let requests arrive: TTFT, TPOT, goodput; or the largest rate that keeps an objective."""
    from smoes_sim.api.inputs import resolve
    from smoes_sim.api.service import serve as serve_requests
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json, write_results
    from smoes_sim.serving import ServiceCurve

    given = overrides or []
    with compilation_told(may_compile=True):
        found = serve_requests(
            scenario, *given, rate=rate, arrivals=arrivals, slo=slo, requests=requests, duration=duration,
            max_batch_tokens=max_batch_tokens, max_sequences=max_sequences, show_progress="lines",
        )  # fmt: skip
    if out is not None:
        rows = found.row_dicts() if isinstance(found, ServiceCurve) else [found.to_dict()]
        write_results(out, rows, [resolve(scenario, given)])
        plot = _plot(found, out) if isinstance(found, ServiceCurve) else None
        show.talk(f"results: {out}" + (f", plot: {plot}" if plot else ""))
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)


def _plot(found: ServiceCurve, out: Path) -> Path | None:
    """Draw the curve if plotting is installed; PNG beside SVG."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from smoes_sim.display.charts import save_chart

    chart = found.plot()
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"goodput.{suffix}")
    return out / "goodput.png"
