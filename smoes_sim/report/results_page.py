"""The page of a folder of results: the answer first, then pictures, tables, assumptions, and how to get it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim import __version__
from smoes_sim.errors import ConfigError
from smoes_sim.report import figures as draw
from smoes_sim.report import sentences as say
from smoes_sim.report.inline import with_own_ids
from smoes_sim.report.inside import Inside, look_inside
from smoes_sim.report.page import picture, write_page
from smoes_sim.report.read_results import Results, read_results
from smoes_sim.results import resolved_yaml
from smoes_sim.topology.picture import draw_topology

Row = dict[str, Any]
_MOST_ROWS = 200
_SAME = 0.05
"""Relative difference of TTFT above which the page says that the model has changed since; medians of an even number of draws
lie between two of them."""
_COMMANDS = {
    "simulate": "smoes-sim simulate scenario.yaml",
    "compare": "smoes-sim compare first.yaml second.yaml ...",
    "sweep": "smoes-sim sweep STUDY, with the points below in its list",
    "plan": "smoes-sim plan PLAN, and one option of it: smoes-sim simulate scenario.yaml",
}


def write_report(folder: Path, path: Path) -> str:
    """Write the page of a folder of results; returns its answer.

    Raises:
        ConfigError: If the folder holds no results, or the page cannot be written.
    """
    results = read_results(folder)
    chosen = say.subject(results)
    scenario = results.scenarios[chosen]
    figures, tables, notes = _overview(results), _tables(results), []
    try:
        inside = look_inside(scenario, ttft_s=results.rows[chosen]["ttft_s"])
    except ConfigError as error:
        notes.append(f"The inside of the deployment cannot be shown: {error}")
    else:
        figures += _inside_figures(inside)
        tables.append(_hot_table(inside))
        notes += _changed(inside, results.rows[chosen])
    write_page(
        path,
        "results.html",
        title=say.title(results),
        answer=say.answer(results),
        brackets=say.brackets(results.scenarios, results.rows),
        figures=[figure | {"svg": picture(with_own_ids(figure["svg"], index))} for index, figure in enumerate(figures)],
        tables=tables,
        notes=notes,
        assumptions=say.assumptions(results, scenario),
        reproduce=f"Save the scenario as scenario.yaml. {_COMMANDS[results.kind]}",
        scenarios=_scenarios(results, chosen),
        versions=f"smoes_sim {__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
    )
    return say.answer(results)


def _figure(caption: str, svg: str, *, style: str = "") -> Row:
    return {"caption": caption, "svg": svg, "style": style}


def _overview(results: Results) -> list[Row]:
    """Price against what is asked; without prices, latency against output."""
    if results.kind == "plan":
        points = [_frontier_point(row) for row in results.rows]
        caption = "Price, and how far inside what is asked: options above the line meet everything; bars are intervals"
        return [_figure(caption, draw.frontier_svg(points, currency=results.document["currency"]))]
    if len(results.rows) == 1:
        return []
    points = [
        {"label": name} | _ends(row, "ttft_s", "ttft") | _ends(row, "tokens_per_s", "rate")
        for name, row in zip(say.names_of(results.rows), results.rows, strict=True)
    ]
    return [_figure("Latency and output; up and to the left is better, bars are intervals", draw.trade_svg(points))]


def _frontier_point(row: Row) -> Row:
    low, high = row["intervals"].get("margin", [row["margin"], row["margin"]])
    return {
        "cost": row["cost_per_hour"],
        "margin": row["margin"],
        "low": low,
        "high": high,
        "tried": row["try"],
        "label": row["name"] if row["tried"] == 0 else "",
    }


def _ends(row: Row, key: str, name: str) -> Row:
    low, high = row["intervals"].get(key, [row[key], row[key]])
    return {name: row[key], f"{name}_low": low, f"{name}_high": high}


def _inside_figures(inside: Inside) -> list[Row]:
    topology = inside.deployment.topology
    figures = [_figure("Where the time goes, on the rank that ends last", draw.time_svg(inside.parts))]
    if inside.modality:
        caption = "Which experts take images (red) and text (blue); lines divide ranks"
        figures.append(_figure(caption, draw.modality_svg(inside.modality)))
    caption = "The links, coloured by how long they are busy in prefill: grey idle, red the busiest"
    return [*figures, _figure(caption, draw_topology(topology, busy=inside.busy), style="wide topology")]


def _hot_table(inside: Inside) -> Row:
    body = [
        [
            row["link"],
            row["kind"],
            f"{row['bytes'] / 1e6:.4g}",
            f"{row['capacity_Bps'] / 1e9:.4g}",
            f"{row['busy_s'] * 1e3:.3g}",
            f"{100 * row['utilisation']:.1f}",
        ]
        for row in inside.hot
    ]
    header = ["link", "kind", "MB", "GB/s", "busy (ms)", "of the pass (%)"]
    return _table("Busiest links in prefill", header, body, left=2)


def _changed(inside: Inside, row: Row) -> list[str]:
    """A warning where the deployment does not give the same time again."""
    if abs(inside.ttft_s / row["ttft_s"] - 1) <= _SAME:
        return []
    return [
        f"The pictures below are of a TTFT of {inside.ttft_s:.3g} s, the results say {row['ttft_s']:.3g} s: the model or a "
        "file has changed since. Run the command again."
    ]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, words: Sequence[int] = ()) -> Row:
    return {"title": title, "header": header, "rows": rows, "left": left, "words": words}


def _tables(results: Results) -> list[Row]:
    if results.kind == "plan":
        return _plan_tables(results.document)
    shown = results.rows[:_MOST_ROWS]
    compared = ["TTFT change (%)", "tokens/s change (%)"] if all("change" in row for row in shown) else []
    header = [
        "deployment",
        "TTFT",
        "TPOT",
        "output tokens/s",
        "EP overhead (%)",
        "GB between ranks",
        "max/mean load",
        *compared,
    ]
    body = [
        [
            name,
            say.time(row, "ttft_s"),
            say.time(row, "tpot_s"),
            say.ranged(row, "tokens_per_s"),
            say.ranged(row, "ep_overhead", factor=100),
            f"{row['bytes_remote'] / 1e9:.3g}",
            f"{row['imbalance']:.2f}",
            *(say.changed_by(row["change"], key) for key in ("ttft_s", "tokens_per_s")[: len(compared)]),
        ]
        for name, row in zip(say.names_of(results.rows), shown, strict=False)
    ]
    more = f", the first {len(shown)} of {len(results.rows)}" if len(shown) < len(results.rows) else ""
    return [_table(f"All deployments{more}", header, body, left=1, words=[0])]


def _plan_tables(document: Row) -> list[Row]:
    options = sorted(document["options"], key=lambda row: (row["cost_per_hour"], row["name"], row["tried"]))
    currency = document["currency"]
    header = ["option", "tried", f"{currency}/h", "TTFT", "TPOT", "tokens/s", "margin", "meets", "bound by"]
    body = [
        [
            row["name"],
            row["try"],
            f"{row['cost_per_hour']:g}",
            say.time(row, "ttft_s"),
            say.time(row, "tpot_s"),
            say.ranged(row, "tokens_per_s"),
            say.ranged(row, "margin"),
            "-" if row["margin"] is None else f"{'yes' if row['meets_slo'] else 'no'} ({100 * row['meets_share']:.0f} %)",
            row["problem"] or row["binds"],
        ]
        for row in options[:_MOST_ROWS]
    ]
    by_try = [
        [
            entry["try"],
            "none" if entry["cheapest"] is None else document["options"][entry["cheapest"]]["name"],
            "-" if entry["cheapest"] is None else f"{entry['cost_per_hour']:g}",
        ]
        for entry in document["by_try"]
    ]
    tables = [
        _table("Every option", header, body, left=2, words=[1, 8]),
        _table(
            "What another routing or placement changes", ["tried", "cheapest", f"{currency}/h"], by_try, left=2, words=[0]
        ),
    ]
    return [*tables, _binding_table(document, options)]


def _binding_table(document: Row, options: Sequence[Row]) -> Row:
    """How much shorter the tightest time gets when a resource takes half as long."""
    known = [row for row in options if row["sensitivity"]]
    names = list(dict.fromkeys(name for row in known for name in row["sensitivity"]))
    body = [
        [
            row["name"],
            row["try"],
            row["tightest"].removesuffix("_s"),
            *(_share(row["sensitivity"].get(name)) for name in names),
        ]
        for row in known[:_MOST_ROWS]
    ]
    title = "What binds: by how many % the tightest time falls when one resource takes half as long (imbalance: is gone)"
    return _table(title, ["option", "tried", "tightest", *names], body, left=3, words=[1])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _scenarios(results: Results, chosen: int) -> list[Row]:
    """The scenario of the answer, then that of the first row if it is another."""
    numbers = dict.fromkeys([chosen, 0])
    return [
        {
            "name": f"scenario of {say.names_of(results.rows)[number]}",
            "text": resolved_yaml([("", results.scenarios[number])]).decode(),
        }
        for number in numbers
    ]
