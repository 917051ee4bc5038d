"""``smoes-sim serve``: how long users wait, and how many a deployment can serve."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.prediction.deployment import Deployment
    from smoes_sim.serving import Limits, Objective, Request, ServedRequests, ServedSystem, ServiceCurve

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
    from smoes_sim.display.tables import as_text
    from smoes_sim.prediction.deploy import deploy
    from smoes_sim.results.write import to_json, write_results
    from smoes_sim.scenario import load_scenario
    from smoes_sim.serving import Objective, ServiceCurve, ServiceResult, limits_of

    per_second = None if rate is None else _rate(rate)
    _check(rate=rate, arrivals=arrivals, slo=slo, requests=requests, duration=duration)
    objective = None if slo is None else Objective.parse(slo)
    loaded = load_scenario(scenario, overrides or [])
    deployment = deploy(loaded)
    limits = limits_of(deployment, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
    system = _system(scenario, deployment, limits, objective)
    found: ServiceResult | ServiceCurve
    source = arrivals if per_second is None else per_second
    if source is None:
        found = _curve(system, deployment, objective or Objective(), number=requests or _NUMBER)
    else:
        chosen = _requests(deployment, source, number=requests, duration=duration)
        served = _run(deployment, chosen, limits, objective)
        found = ServiceResult(
            system=system, rate_per_s=per_second, arrivals=None if arrivals is None else str(arrivals), served=served
        )
    if out is not None:
        rows = found.row_dicts() if isinstance(found, ServiceCurve) else [found.to_dict()]
        write_results(out, rows, [(scenario, loaded)])
        plot = _plot(found, out) if isinstance(found, ServiceCurve) else None
        show.talk(f"results: {out}" + (f", plot: {plot}" if plot else ""))
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)


def _check(*, rate: str | None, arrivals: Path | None, slo: str | None, requests: int | None, duration: str | None) -> None:
    """Refuse options that contradict each other."""
    if rate is None and arrivals is None and slo is None:
        raise ConfigError("nothing says when requests arrive. Give --rate 2/s, --arrivals FILE, or --slo to find the rate.")
    if rate is not None and arrivals is not None:
        raise ConfigError("--rate and --arrivals both say when requests arrive. Leave one out.")
    if requests is not None and duration is not None:
        raise ConfigError("--requests and --duration both say how many arrive. Leave one out.")
    if arrivals is not None and (requests is not None or duration is not None):
        raise ConfigError("--arrivals says how many arrive. Leave out --requests and --duration.")
    if duration is not None and rate is None:
        raise ConfigError("--duration goes with --rate: every rate of a search serves the same requests. Give --requests.")


def _rate(text: str) -> float:
    """Requests per second of ``2/s``."""
    from smoes_sim.units import parse_arrivals

    try:
        return parse_arrivals(text)
    except ValueError as error:
        raise ConfigError(f"--rate = {error}") from None


def _system(scenario: str, deployment: Deployment, limits: Limits, objective: Objective | None) -> ServedSystem:
    from smoes_sim.serving import ServedSystem

    return ServedSystem(
        scenario=scenario,
        model=deployment.model.name,
        topology=deployment.topology.name,
        ranks=deployment.topology.num_ranks,
        policy=deployment.scenario.routing.name,
        slo=None if objective is None else str(objective),
        limits=limits,
        calibration=deployment.scenario.calibration,
    )


def _requests(deployment: Deployment, source: float | Path, *, number: int | None, duration: str | None) -> list[Request]:
    """Requests of a file, or of a Poisson process of a rate."""
    from smoes_sim.serving import poisson_requests, read_requests

    if isinstance(source, Path):
        return read_requests(source)
    if duration is not None:
        return poisson_requests(deployment, source, duration=show.duration("--duration", duration))
    return poisson_requests(deployment, source, number=number or _NUMBER)


def _run(deployment: Deployment, requests: list[Request], limits: Limits, objective: Objective | None) -> ServedRequests:
    from smoes_sim.prediction.draws import constant_sets
    from smoes_sim.serving import forecast

    count = _Counter()
    with compilation_told(may_compile=True), show.progress("services", len(constant_sets(deployment))) as advance:
        return forecast(deployment, requests, limits, objective, on_run=lambda: advance(count.next()))


def _curve(system: ServedSystem, deployment: Deployment, objective: Objective, *, number: int) -> ServiceCurve:
    from smoes_sim.serving import ServiceCurve, forecast_curve, runs_of_curve

    count = _Counter()
    with compilation_told(may_compile=True), show.progress("services", runs_of_curve(deployment)) as advance:
        found = forecast_curve(deployment, system.limits, objective, number=number, on_run=lambda: advance(count.next()))
    return ServiceCurve(
        system=system,
        max_rate_per_s=found.max_rate_per_s,
        intervals=found.intervals,
        rates=found.rates,
        rows=found.rows,
    )


class _Counter:
    """Counts what is done."""

    def __init__(self) -> None:
        self._done = 0

    def next(self) -> int:
        """One more."""
        self._done += 1
        return self._done


def _plot(found: ServiceCurve, out: Path) -> Path | None:
    """Draw the curve if plotting is installed; PNG beside SVG."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from smoes_sim.display.charts import save_chart

    chart = found.plot()
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"goodput.{suffix}")
    return out / "goodput.png"
