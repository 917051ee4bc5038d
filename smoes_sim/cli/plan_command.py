"""``smoes-sim plan``: the cheapest system on a price list that is fast enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told

Row = dict[str, Any]
_CELLS = {"TTFT (s)": "ttft_s", "TPOT (s)": "tpot_s", "tokens/s": "tokens_per_s", "margin": "margin"}
_SERVED = {"TTFT (s)": "ttft_s", "TPOT (s)": "tpot_s", "requests/s": "max_rate_per_s", "margin": "margin"}


def plan(
    file: Annotated[str, typer.Argument(metavar="PLAN", help="A shipped plan or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides of the plan, such as slo.ttft='2 s'.")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON and the resolved scenarios.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the cheapest system on a price list that meets an SLO, and what holds each back."""
    from smoes_sim.planning import load_plan, make_plan
    from smoes_sim.results.write import resolved_yaml, to_json, write_tables
    from smoes_sim.yaml_files import write_bytes

    loaded = load_plan(file, overrides or [])
    with compilation_told(may_compile=True), show.progress("offers", len(loaded.offers)) as advance:
        document = make_plan(loaded, on_offer=advance)
    if out is not None:
        scenarios = [(row.point.name, row.point.scenario) for row in loaded.offers]
        write_tables(out, document["options"], document)
        known = [(name, scenario) for name, scenario in scenarios if scenario is not None]
        write_bytes(out / "scenario.resolved.yaml", resolved_yaml(known))
        show.talk(f"results: {out}; a page of them: smoes-sim report {out} -o plan.html")
    typer.echo(to_json(document) if as_json else plan_text(document), nl=False)


def plan_text(document: Row) -> str:
    """The answer, every option, and what each entry of ``try`` would change."""
    rows = document["options"]
    cells = _CELLS if document["serving"] is None else _SERVED
    header = ["option", "tried", "ranks", f"{document['currency']}/h", *cells, "meets", "bound by (gain if halved)"]
    body = [
        _line(row, list(cells.values()))
        for row in sorted(rows, key=lambda row: (row["cost_per_hour"], row["name"], row["tried"]))
    ]
    text = document["answer"] + "\n\n" + show.table(header, body, left=2)
    text += "\nCheapest that meets it, by what is tried\n"
    cheapest = [
        [
            entry["try"],
            "-" if entry["cheapest"] is None else rows[entry["cheapest"]]["name"],
            "none" if entry["cheapest"] is None else f"{entry['cost_per_hour']:g}",
        ]
        for entry in document["by_try"]
    ]
    text += show.table(["tried", "option", f"{document['currency']}/h"], cheapest, left=2)
    return f"{text}\n{document['meaning']}\n"


def _line(row: Row, keys: Sequence[str]) -> list[str]:
    cells = [cell(row, key, 1.0) for key in keys]
    verdict = (
        f"{'yes' if row['meets_slo'] else 'no'} ({100 * row['meets_share']:.0f}%)" if row["margin"] is not None else "-"
    )
    bound = row["problem"] or f"{row['binds']} ({100 * max(row['sensitivity'].values()):.0f}%)"
    return [row["name"], row["try"], str(row["ranks"] or "-"), f"{row['cost_per_hour']:g}", *cells, verdict, bound]


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
