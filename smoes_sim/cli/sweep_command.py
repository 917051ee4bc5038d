"""``smoes-sim sweep``: a grid or a list of scenarios; an interrupted run can be continued."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.sweeps import SweepResult, Tally


def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A shipped sweep study or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides of the base scenario.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of points and tables; finished points in it are used.")] = Path("sweep"),
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Number of points computed at a time. Default 1.")] = None,
    shard: Annotated[Optional[str], typer.Option(metavar="I/N", help="Compute only this part, 1/N to N/N.")] = None,
    backend: Annotated[Literal["loky", "dask"], typer.Option(help="loky: this machine; dask: a cluster.")] = "loky",
    scheduler: Annotated[Optional[str], typer.Option(help="Address of a running Dask scheduler.")] = None,
    sources: Annotated[
        Optional[list[Path]], typer.Option("--from", help="Use the finished points of another --out folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Predict every point of a grid or a list; a run that was killed or interrupted continues where it was."""
    from smoes_sim.api.study import sweep as sweep_study
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json
    from smoes_sim.sweeps import Shard, load_sweep

    if scheduler is not None and (backend != "dask" or jobs is not None):
        raise ConfigError(f"--scheduler = {scheduler} goes with --backend dask, and not with --jobs.")
    if shard is not None:
        Shard.parse(shard)  # a mistake is reported before any work
    loaded = load_sweep(study, overrides or [])
    in_process = backend == "loky" and jobs in {None, 1}
    with show.interruption_told(), compilation_told(may_compile=in_process):
        tally = sweep_study(
            loaded,
            out=out,
            jobs=jobs or 1,
            shard=shard,
            backend=backend,
            scheduler=scheduler,
            sources=sources or (),
            on_found=lambda found, total: _tell_found(found, total, out),
            show_progress="lines",
        )
    _tell(tally, out)
    if tally.result is not None and (plot := _plot(tally.result, out)):
        show.talk(f"plot: {plot}")
    if as_json:
        typer.echo(to_json(tally.to_dict()), nl=False)
    elif tally.result is not None:
        typer.echo(as_text(tally.result.tables()), nl=False)
    if tally.failed:
        raise typer.Exit(1)


def _tell_found(found: int, total: int, out: Path) -> None:
    """Say how many points need not be computed."""
    if found:
        show.talk(f"{found} of {total} points are already in {out}")


def _tell(tally: Tally, out: Path) -> None:
    """Print what happened."""
    show.talk(tally.counted)
    for name, error in tally.failures.items():
        show.talk(f"failed: {name}: {error}")
    if tally.result is not None:
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
    else:
        show.talk(f"the tables are written when no point is missing: run the other shards with --out {out}")


def _plot(result: SweepResult, out: Path) -> Path | None:
    """Draw the picture that the study asks for as PNG and SVG, if plotting is installed."""
    if result.sweep.file.plot is None or find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from smoes_sim.display.charts import save_chart

    chart = result.plot()
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"sweep.{suffix}")
    return out / "sweep.png"
