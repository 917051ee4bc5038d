"""``smoes-sim simulate`` and ``smoes-sim compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.prediction.comparison import Comparison

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def simulate(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Shipped scenario or path of a file.")],
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="KEY=VALUE", help="Changes of the scenario, such as workload.batch=16."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON and the resolved scenario.")] = None,
    timeline: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Chrome trace of the prefill, or of decode alone (.json[.gz])."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict one deployment: traffic, TTFT, TPOT, throughput, and what communication adds.

    For example: smoes-sim simulate olmoe-two-orin routing.policy=smoes topology.link.bandwidth='25 Gb/s'
    """
    from smoes_sim.api.inputs import resolve
    from smoes_sim.api.predict import simulate as predict
    from smoes_sim.results.write import to_json, write_results

    given = overrides or []
    with compilation_told(may_compile=True):
        prediction = predict(scenario, *given, timeline=timeline, show_progress="lines")
    if timeline is not None:
        show.talk(f"timeline: {timeline} (open it at https://ui.perfetto.dev)")
    if out is not None:
        write_results(out, [prediction.to_dict()], [resolve(scenario, given)])
        show.talk(f"results: {out}")
    typer.echo(to_json(prediction.to_dict()) if as_json else prediction, nl=not as_json)


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO|KEY=VALUE,VALUE",
            help="Shipped scenarios or paths of files, then changes; every combination of their values is one row.",
        ),
    ],
    baseline: Annotated[int, typer.Option(help="Index of the row that the others are compared with.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON, SVG and PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Predict several deployments side by side, and what changes between them.

    For example: smoes-sim compare olmoe-two-orin routing.policy=standard,smoes placement.tokens=data_parallel,modality
    """
    from smoes_sim.api.predict import compare as predict
    from smoes_sim.results.write import to_json, write_results

    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not names:
        raise ConfigError("no scenario is named. Write for example: smoes-sim compare olmoe-two-orin seed=0,1")
    with show.interruption_told(), compilation_told(may_compile=True):
        found = predict(names, *overrides, baseline=baseline, show_progress="lines")
    plots: list[Path] = []
    if out is not None:
        scenarios = [(candidate.name, candidate.scenario) for candidate in found.candidates]
        write_results(out, found.row_dicts(), scenarios, about={"baseline": baseline})
        plots = _save_plots(found, out)
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
    typer.echo(to_json(found.to_dict()) if as_json else found, nl=not as_json)
    if plots and not as_json:
        typer.echo(f"plot: {plots[0]}")


def _save_plots(found: Comparison, folder: Path) -> list[Path]:
    """Write the chart as PNG and SVG; without the plotting libraries say so and write nothing."""
    from smoes_sim.display.charts import save_chart

    try:
        chart = found.plot()
    except ConfigError as error:
        show.talk(str(error))
        return []
    paths = [folder / "comparison.png", folder / "comparison.svg"]
    for path in paths:
        save_chart(chart, path)
    return paths
