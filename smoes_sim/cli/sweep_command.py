"""``smoes-sim sweep``: a grid or a list of scenarios, computed once and gone on with after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.sweeps import Sweep, Tally

Row = dict[str, Any]
_COLUMNS = {
    "TTFT (s)": ("ttft_s", 1.0),
    "TPOT (s)": ("tpot_s", 1.0),
    "output tokens/s": ("tokens_per_s", 1.0),
    "EP overhead of prefill (%)": ("ep_overhead", 100.0),
    "GB": ("bytes_remote", 1e-9),
    "max/mean": ("imbalance", 1.0),
}


_CHANGES = {
    "TTFT change (%)": "ttft_s",
    "TPOT change (%)": "tpot_s",
    "tokens/s change (%)": "tokens_per_s",
    "EP time change (%)": "ep_comm_s",
}


def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A shipped sweep study or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides of the base scenario.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of points and tables; it is gone on with.")] = Path("sweep"),
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Points computed at a time; 1 if not given.")] = None,
    shard: Annotated[Optional[str], typer.Option(metavar="I/N", help="Compute this part only, 1/N to N/N.")] = None,
    backend: Annotated[Literal["loky", "dask"], typer.Option(help="loky: this machine; dask: a cluster.")] = "loky",
    scheduler: Annotated[Optional[str], typer.Option(help="Address of a running Dask scheduler.")] = None,
    sources: Annotated[
        Optional[list[Path]], typer.Option("--from", help="Take over finished points of another --out folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Predict every point of a grid or a list; a killed run goes on where it was."""
    from smoes_sim.results.write import to_json
    from smoes_sim.sweeps import Shard, load_sweep, run_sweep

    if scheduler is not None and (backend != "dask" or jobs is not None):
        raise ConfigError(f"--scheduler = {scheduler} goes with --backend dask and its own number of workers, not --jobs.")
    part = Shard.parse(shard) if shard is not None else None
    loaded = load_sweep(study, overrides or [])
    in_process = backend == "loky" and jobs in {None, 1}
    with compilation_told(may_compile=in_process), ExitStack() as stack:

        def begin(total: int) -> Callable[[int], None]:
            return stack.enter_context(show.progress("points", total))

        tally = run_sweep(
            loaded,
            out,
            jobs=jobs or 1,
            shard=part,
            backend=backend,
            scheduler=scheduler,
            sources=sources or (),
            on_begin=begin,
        )
    _tell(tally, out)
    if tally.rows and (plot := _plot(loaded, tally.rows, out)):
        show.talk(f"plot: {plot}")
    if as_json:
        typer.echo(to_json(_counts(tally) | {"failures": tally.failures}), nl=False)
    elif tally.rows:
        typer.echo(points_table(loaded, tally.rows), nl=False)
    if tally.failed:
        raise typer.Exit(1)


def _counts(tally: Tally) -> Row:
    return {name: getattr(tally, name) for name in ("points", "done", "skipped", "failed", "missing")}


def _tell(tally: Tally, out: Path) -> None:
    """What happened, for people."""
    show.talk(", ".join(f"{count} {name}" for name, count in _counts(tally).items()))
    for name, error in tally.failures.items():
        show.talk(f"failed: {name}: {error}")
    if tally.rows:
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
    else:
        show.talk(f"the tables are written when no point is missing: run the other shards with --out {out}")


def _plot(loaded: Sweep, rows: Sequence[Row], out: Path) -> Path | None:
    """Draw what the study asks for, if plotting is installed; PNG beside SVG."""
    plot = loaded.file.plot
    if plot is None or find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from smoes_sim.display.charts import save_chart
    from smoes_sim.sweeps.charts import sweep_chart

    chart = sweep_chart(rows, plot)
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"sweep.{suffix}")
    return out / "sweep.png"


def points_table(loaded: Sweep, rows: Sequence[Row]) -> str:
    """The swept keys, the main quantities and what is plotted of each point, then what changes; a failed one has dashes."""
    from smoes_sim.sweeps.study import in_one_line

    plot, columns = loaded.file.plot, dict(_COLUMNS)
    if plot is not None and all(plot.metric != name for name, _ in columns.values()):
        columns[plot.metric] = (plot.metric, 1.0)
    text = _table(loaded, rows, {head: [cell(row, *column) for row in rows] for head, column in columns.items()})
    if loaded.file.against is None:
        return text
    text += f"\nChange from the point with {in_one_line(loaded.file.against)}, draw by draw\n"
    return text + _table(loaded, rows, {head: [_change(row, key) for row in rows] for head, key in _CHANGES.items()})


def _table(loaded: Sweep, rows: Sequence[Row], columns: Mapping[str, Sequence[str]]) -> str:
    """The swept keys and some columns, without those that no point has."""
    from smoes_sim.sweeps.study import text_at

    keys = loaded.swept()
    shown = {head: cells for head, cells in columns.items() if set(cells) != {"-"}}
    places = [[text_at(row["set"], key) for key in keys] for row in rows]
    body = [[*place, *cells] for place, *cells in zip(places, *shown.values(), strict=True)]
    return show.table([*keys, *shown], body, left=len(keys))


def _change(row: Row, key: str) -> str:
    """A relative change in percent with its interval."""
    from smoes_sim.prediction.changes import changes_of_dict

    found = changes_of_dict(row["change"]).get(key)
    return "-" if found is None else str(found)


def cell(row: Row, name: str, factor: float) -> str:
    """A value with its interval over the calibration's draws."""
    if row.get(name) is None:
        return "-"
    interval = row["intervals"].get(name)
    ends = " [{}, {}]".format(*(_digits(factor * end) for end in interval)) if interval else ""
    return _digits(factor * row[name]) + ends


def _digits(value: float) -> str:
    """Three digits; from ten thousand on as 166,000 and not 1.66e+05."""
    text = f"{value:.3g}"
    return f"{float(text):,.0f}" if value >= 1e4 else text
