"""The page of a folder of results: the answer first, then pictures, tables, assumptions, and how to get it again."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim.errors import ConfigError
from smoes_sim.report import figures as draw
from smoes_sim.report import sentences as say
from smoes_sim.report.inline import with_own_ids
from smoes_sim.report.inside import Inside, look_inside
from smoes_sim.report.page import picture, write_page
from smoes_sim.results.read import Results, read_results
from smoes_sim.results.write import resolved_yaml
from smoes_sim.sweeps.study import text_at
from smoes_sim.topology.picture import draw_topology
from smoes_sim.version import __version__

Row = dict[str, Any]
_MOST_ROWS = 200
_SWEPT = {"ttft_s": "TTFT (s)", "tokens_per_s": "Output tokens per second"}
_SHORT = {"ttft_s": "TTFT", "tpot_s": "TPOT", "tokens_per_s": "tokens/s", "max_rate_per_s": "requests/s"}
_SAME = 0.05
"""Relative difference of TTFT above which the page says that the model has changed since; medians of an even number of draws
lie between two of them."""
_MOST_SCENARIOS = 12
_BLANK_INSIDE = re.compile(r"(?<=,) (?=[^\[\]]*\])|(?<=\]) ")
"""Blanks of "39 [30, 60] ms" where no line may end."""


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
        inside = look_inside(scenario, results.rows[chosen])
    except ConfigError as error:
        notes.append(f"The inside of the deployment cannot be shown: {error}")
    else:
        figures += _inside_figures(inside)
        tables.append(_hot_table(inside))
        notes += [*_one_of(inside, say.names_of(results.rows)[chosen]), *_changed(inside, results.rows[chosen])]
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
        reproduce=_reproduce(results),
        scenarios=_scenarios(results, chosen),
        versions=f"smoes_sim {__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
    )
    return say.answer(results)


def _figure(caption: str, svg: str, *, style: str = "") -> Row:
    return {"caption": caption, "svg": svg, "style": style}


def _overview(results: Results) -> list[Row]:
    """Price against what is asked; without prices, latency against output."""
    if results.kind == "plan":
        points = [_frontier_point(row) for row in results.rows if row["margin"]]
        if not points:
            return []
        lowest = min(point[key] for point in points for key in ("low", "margin") if point[key]) / 2
        points = [point | {"low": max(point["low"], lowest)} for point in points]  # the axis is logarithmic
        caption = "Price, and how far inside what is asked: options above the line meet everything; bars are intervals"
        return [_figure(caption, draw.frontier_svg(points, currency=results.document["currency"]))]
    if len(results.rows) == 1:
        return []
    if results.kind == "sweep" and (axes := _axes(results.rows)):
        return [
            _figure(f"{name} over what was swept; bands are intervals", draw.sweep_svg(results.rows, key, *axes))
            for key, name in _SWEPT.items()
        ]
    points = [
        {"label": name} | _ends(row, "ttft_s", "ttft") | _ends(row, "tokens_per_s", "rate")
        for name, row in zip(say.names_of(results.rows), results.rows, strict=True)
    ]
    return [_figure("Latency and output; up and to the left is better, bars are intervals", draw.trade_svg(points))]


def _axes(rows: Sequence[Row]) -> tuple[str, str | None] | None:
    """The swept key with most values and the other one, if there are no more than two; None if a picture has other axes."""
    keys = dict.fromkeys(key for row in rows for key in row["set"])
    values = {key: len({text_at(row["set"], key) for row in rows}) for key in keys}
    swept = sorted((key for key in keys if values[key] > 1), key=lambda key: -values[key])
    places = {tuple(text_at(row["set"], key) for key in swept) for row in rows}
    if not 1 <= len(swept) <= 2 or len(places) < len(rows):
        return None
    return swept[0], swept[1] if len(swept) == 2 else None


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
    figures = [_figure("Where the time goes, on the busiest of the ranks that end last", draw.time_svg(inside.parts))]
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
    header = ["link", "kind", "MB", "reached (GB/s)", "busy (ms)", "of the pass (%)"]
    return _table("Busiest links in prefill", header, body, left=2)


def _one_of(inside: Inside, name: str) -> list[str]:
    """Which deployment and which set of constants the pictures of the inside are of."""
    text = f"Times inside, experts and links are those of {name}"
    if inside.num_sets > 1:
        text += f", under the one of {inside.num_sets} sets of constants whose times are nearest the values above"
    return [f"{text}; there communication adds {100 * inside.ep_overhead:.3g} % to the layers' prefill."]


def _changed(inside: Inside, row: Row) -> list[str]:
    """A warning where the deployment does not give the same time again."""
    if abs(inside.ttft_s / row["ttft_s"] - 1) <= _SAME:
        return []
    return [
        f"The pictures below are of a TTFT of {inside.ttft_s:.3g} s, the results say {row['ttft_s']:.3g} s: the model or a "
        "file has changed since. Run the command again."
    ]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, words: Sequence[int] = ()) -> Row:
    tied = [[_BLANK_INSIDE.sub("\N{NO-BREAK SPACE}", cell) for cell in row] for row in rows]
    return {"title": title, "header": header, "rows": tied, "left": left, "words": words}


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
    return [
        _table(f"All deployments{more}" if len(results.rows) > 1 else "The deployment", header, body, left=1, words=[0]),
        *_failed(results),
    ]


def _failed(results: Results) -> list[Row]:
    """The points of a sweep that have no prediction, and why."""
    body = [[row["name"], row["error"]] for row in results.document["rows"] if row.get("error") is not None]
    title = f"{len(body)} of {len(results.document['rows'])} points failed"
    return [_table(title, ["point", "why"], body[:_MOST_ROWS], left=2, words=[0, 1])] if body else []


def _plan_tables(document: Row) -> list[Row]:
    options = sorted(document["options"], key=lambda row: (row["cost_per_hour"], row["name"], row["tried"]))
    currency = document["currency"]
    rate, of_batch = ("tokens_per_s", "") if document.get("serving") is None else ("max_rate_per_s", " of a batch")
    header = [
        "option",
        "tried",
        f"{currency}/h",
        f"TTFT{of_batch}",
        f"TPOT{of_batch}",
        _SHORT[rate],
        "margin",
        "meets (sets of constants)",
        "bound by",
    ]
    body = [
        [
            row["name"],
            row["try"],
            f"{row['cost_per_hour']:g}",
            say.time(row, "ttft_s"),
            say.time(row, "tpot_s"),
            say.ranged(row, rate),
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
            _SHORT[row["tightest"]],
            *(_share(row["sensitivity"].get(name)) for name in names),
        ]
        for row in known[:_MOST_ROWS]
    ]
    title = "What binds: by how many % the tightest time falls when one resource takes half as long (imbalance: is gone)"
    return _table(title, ["option", "tried", "tightest", *names], body, left=3, words=[1])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _scenarios(results: Results, chosen: int) -> list[Row]:
    """The scenario of the answer, then the others that the command needs to get it again."""
    names, numbers = say.names_of(results.rows), dict.fromkeys([chosen, 0])
    if results.kind == "compare":
        numbers = dict.fromkeys([chosen, *range(min(len(names), _MOST_SCENARIOS))])
    return [
        {
            "name": f"{_file_of(results, number, chosen)}: scenario of {names[number]}",
            "text": resolved_yaml([("", results.scenarios[number])]).decode(),
        }
        for number in numbers
    ]


def _file_of(results: Results, number: int, chosen: int) -> str:
    """The name under which a scenario is to be saved."""
    if results.kind == "compare":
        return f"{number + 1}.yaml"
    return "scenario.yaml" if number == chosen else "first.yaml"


def _reproduce(results: Results) -> str:
    """The commands that give it again from the scenarios on the page."""
    if results.kind == "simulate":
        return "Save the scenario as scenario.yaml: smoes-sim simulate scenario.yaml"
    if results.kind == "compare":
        number = len(results.rows)
        if number > _MOST_SCENARIOS:
            shown = f"the first {_MOST_SCENARIOS} of {number} and that of the answer"
            return f"smoes-sim compare 1.yaml 2.yaml ...; here are {shown}."
        files = " ".join(f"{index + 1}.yaml" for index in range(number))
        baseline = results.document.get("baseline", 0)
        return f"Save the scenarios: smoes-sim compare {files}" + (f" --baseline {baseline}" if baseline else "")
    what = "point" if results.kind == "sweep" else "option"
    text = f"Save the scenario as scenario.yaml, for this {what} alone: smoes-sim simulate scenario.yaml"
    return f"{text}; for all of them: smoes-sim {results.kind} with the file that was used then."
