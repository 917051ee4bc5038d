"""``smoes-sim serve``: how long users wait, and how many a deployment can serve."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.prediction.deployment import Deployment
    from smoes_sim.serving import Limits, Objective, Request

Row = dict[str, Any]
_NUMBER = 400
"""Requests of a run when neither a number nor a duration is given."""
_TIMES = {"TTFT": "ttft", "TPOT": "tpot", "end to end": "e2e"}
_STATISTICS = ("mean", "p50", "p90", "p99")
_CURVE = {
    "rate (1/s)": ("rate_per_s", 1.0),
    "meet it (%)": ("attainment", 100.0),
    "goodput (1/s)": ("goodput_per_s", 1.0),
    "TTFT p50 (s)": ("ttft_p50_s", 1.0),
    "TTFT p90 (s)": ("ttft_p90_s", 1.0),
    "TPOT p50 (s)": ("tpot_p50_s", 1.0),
    "TPOT p90 (s)": ("tpot_p90_s", 1.0),
    "output tokens/s": ("output_tokens_per_s", 1.0),
    "KV max (%)": ("kv_use_max", 100.0),
}


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
    from smoes_sim.prediction.deploy import deploy
    from smoes_sim.results.write import to_json, write_results
    from smoes_sim.scenario import load_scenario
    from smoes_sim.serving import Objective, limits_of

    per_second = None if rate is None else _rate(rate)
    _check(rate=rate, arrivals=arrivals, slo=slo, requests=requests, duration=duration)
    objective = None if slo is None else Objective.parse(slo)
    loaded = load_scenario(scenario, overrides or [])
    deployment = deploy(loaded)
    limits = limits_of(deployment, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
    document: Row = {"scenario": scenario} | _about(deployment, limits, objective)
    if per_second is None and arrivals is None:
        assert objective is not None
        document |= _curve(deployment, limits, objective, number=requests or _NUMBER)
    else:
        chosen = _requests(deployment, per_second, arrivals, number=requests, duration=duration)
        document |= {"rate_per_s": per_second, "arrivals": None if arrivals is None else str(arrivals)}
        document |= _run(deployment, chosen, limits, objective)
    if out is not None:
        rows = document.get("rows", [document])
        write_results(out, rows, [(scenario, loaded)])
        plot = _plot(document, out) if "rows" in document else None
        show.talk(f"results: {out}" + (f", plot: {plot}" if plot else ""))
    typer.echo(to_json(document) if as_json else text_of(document), nl=False)


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


def _about(deployment: Deployment, limits: Limits, objective: Objective | None) -> Row:
    return {
        "model": deployment.model.name,
        "topology": deployment.topology.name,
        "ranks": deployment.topology.num_ranks,
        "policy": deployment.scenario.routing.name,
        "slo": None if objective is None else str(objective),
        "limits": asdict(limits),
    }


def _requests(
    deployment: Deployment, rate: float | None, arrivals: Path | None, *, number: int | None, duration: str | None
) -> list[Request]:
    from smoes_sim.serving import poisson_requests, read_requests

    if arrivals is not None:
        return read_requests(arrivals)
    assert rate is not None
    if duration is not None:
        return poisson_requests(deployment, rate, duration=show.duration("--duration", duration))
    return poisson_requests(deployment, rate, number=number or _NUMBER)


def _run(deployment: Deployment, requests: list[Request], limits: Limits, objective: Objective | None) -> Row:
    from smoes_sim.prediction.draws import constant_sets
    from smoes_sim.serving import forecast

    count = _Counter()
    with compilation_told(may_compile=True), show.progress("services", len(constant_sets(deployment))) as advance:
        return forecast(deployment, requests, limits, objective, on_run=lambda: advance(count.next()))


def _curve(deployment: Deployment, limits: Limits, objective: Objective, *, number: int) -> Row:
    from smoes_sim.serving import forecast_curve, runs_of_curve

    count = _Counter()
    with compilation_told(may_compile=True), show.progress("services", runs_of_curve(deployment)) as advance:
        return forecast_curve(deployment, limits, objective, number=number, on_run=lambda: advance(count.next()))


class _Counter:
    """Counts what is done."""

    def __init__(self) -> None:
        self._done = 0

    def next(self) -> int:
        """One more."""
        self._done += 1
        return self._done


def _plot(document: Row, out: Path) -> Path | None:
    """Draw the curve if plotting is installed; PNG beside SVG."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from smoes_sim.display.charts import save_chart
    from smoes_sim.serving import WANTED
    from smoes_sim.serving.charts import goodput_chart

    title = f"{document['model']} on {document['topology']}, {document['slo']}"
    chart = goodput_chart(document["rows"], max_rate=document["max_rate_per_s"], wanted=WANTED, title=title)
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"goodput.{suffix}")
    return out / "goodput.png"


def text_of(document: Row) -> str:
    """A service, or a curve, for people."""
    limits = document["limits"]
    head = {
        "deployment": f"{document['model']} on {document['topology']} ({document['ranks']} ranks), "
        f"routing {document['policy']}",
        "batching": f"{limits['groups']} attention group(s), each at most {limits['max_batch_tokens']} tokens a step, "
        f"{limits['max_sequences']} sequences, a KV cache of {limits['cache_blocks']} blocks of 16 tokens",
    }
    return show.pairs(head | (_largest(document) if "rows" in document else {})) + (
        _curve_table(document["rows"]) if "rows" in document else _one(document)
    )


def _largest(document: Row) -> Row:
    rate = document["max_rate_per_s"]
    found = _cell(document, "max_rate_per_s", 1.0) + " requests/s" if rate else "none: even requests that are alone miss it"
    return {f"90% of requests meet {document['slo']} up to": found}


def _curve_table(rows: list[Row]) -> str:
    body = [[_cell(row, key, factor) for key, factor in _CURVE.values()] for row in rows]
    return "\n" + show.table(list(_CURVE), body, left=0)


def _one(document: Row) -> str:
    rate = document["rate_per_s"]
    source = f"Poisson, {rate:g}/s" if rate is not None else document["arrivals"]
    body = [
        [name, *(_cell(document, f"{key}_{statistic}_s", 1.0) for statistic in _STATISTICS)]
        for name, key in _TIMES.items()
        if f"{key}_mean_s" in document
    ]

    def cell(key: str, factor: float = 1.0) -> str:
        return _cell(document, key, factor)

    lines = {
        "arrivals": f"{document['requests']} requests, {source}",
        "served": f"{cell('requests_per_s')} requests/s",
        "tokens/s": f"{cell('output_tokens_per_s')} of output, {cell('tokens_per_s')} with prompts",
    }
    if document["slo"] is not None:
        lines[f"meet {document['slo']}"] = f"{cell('attainment', 100.0)} %; goodput {cell('goodput_per_s')} requests/s"
    lines |= {
        "waiting": f"{cell('waiting_mean')} requests on average, at most {cell('waiting_max')}",
        "running": f"{cell('running_mean')} requests on average",
        "KV cache in use (%)": f"{cell('kv_use_mean', 100.0)} on average, at most {cell('kv_use_max', 100.0)}",
        "preemptions": cell("preemptions"),
        "busy (%)": f"{cell('busy', 100.0)} of {cell('makespan_s')} s, {cell('steps')} steps",
    }
    return show.pairs(lines) + "\n" + show.table(["seconds", *_STATISTICS], body)


def _cell(row: Row, key: str, factor: float) -> str:
    """A value with its interval over the sets of constants."""
    if key not in row:
        return "-"
    interval = row["intervals"].get(key)
    ends = " [{:.4g}, {:.4g}]".format(*(factor * end for end in interval)) if interval and interval[0] < interval[1] else ""
    return f"{factor * row[key]:.4g}{ends}"
