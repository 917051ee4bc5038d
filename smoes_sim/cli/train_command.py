"""``smoes-sim train``: train a small vision-language model, every variant and seed of a study."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show

if TYPE_CHECKING:
    from smoes_sim.learning.trained_study import TrainedStudy
    from smoes_sim.learning.unit_result import UnitResult


def train(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Shipped study or path of a study file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides, such as training.steps=100.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for weights, traces and results; finished runs in it are reused.")
    ] = Path("study"),
    jobs: Annotated[int, typer.Option(min=1, help="Number of runs at a time, one thread each.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train every variant and seed of a study, measure routing and traffic, and judge the claims."""
    from smoes_sim.api.learn import train as train_study
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json

    trained = train_study(study, *(overrides or []), out=out, jobs=jobs, on_unit=_report_unit, show_progress="lines")
    plot = _save_plot(trained, out)
    typer.echo(to_json(trained.to_dict()) if as_json else as_text(trained.tables()) + plot, nl=False)


def _report_unit(name: str, seed: int, result: UnitResult) -> None:
    accuracy = "-" if result.accuracy is None else f"{result.accuracy:.1%}"
    msi = f", specialisation {result.routed().msi:.3f}" if result.has_router else ""
    show.talk(f"{name}, seed {seed}: {accuracy} of questions right{msi}")


def _save_plot(trained: TrainedStudy, out: Path) -> str:
    """Save the chart of the first claim if there is one and plotting is installed; the line to print."""
    if not trained.has_plot or find_spec("altair") is None or find_spec("vl_convert") is None:
        return ""
    from smoes_sim.display.charts import save_chart

    path = out / "modality-share.png"
    save_chart(trained.plot(), path)
    return f"\nplot: {path}\n"
