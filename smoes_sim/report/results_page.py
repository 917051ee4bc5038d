"""The page of a folder of results: the answer first, then pictures, tables, assumptions, and how to get it again."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Protocol

import numpy as np

from smoes_sim.display.tables import time_column
from smoes_sim.errors import ConfigError
from smoes_sim.report import figures as draw
from smoes_sim.report import sentences as say
from smoes_sim.report.inline import with_own_ids
from smoes_sim.report.inside import Inside, look_inside
from smoes_sim.report.page import picture, write_page
from smoes_sim.report.plan_content import chosen_option, plan_content
from smoes_sim.report.rows_content import rows_content
from smoes_sim.report.sections import Figure, PageTable, page_table
from smoes_sim.results.read import StoredPlanResults, StoredResults, read_results
from smoes_sim.results.write import resolved_yaml
from smoes_sim.scenario import Scenario
from smoes_sim.topology.picture import draw_topology
from smoes_sim.version import __version__

_SAME = 0.05
"""Relative difference of TTFT above which the page says that the model has changed since; medians of an even number of draws
lie between two of them."""


class _Figures(Protocol):
    """The times of a row by which its set of constants is recognised."""

    @property
    def ttft_s(self) -> float | None: ...

    @property
    def tpot_s(self) -> float | None: ...


def write_report(folder: Path, path: Path) -> str:
    """Write the page of a folder of results; returns its answer.

    Raises:
        ConfigError: If the folder holds no results, or the page cannot be written.
    """
    results = read_results(folder)
    content = plan_content(results) if isinstance(results, StoredPlanResults) else rows_content(results)
    scenario, row, overhead = _chosen(results)
    figures, tables, notes = list(content.figures), list(content.tables), []
    try:
        inside = look_inside(scenario, ttft_s=row.ttft_s, tpot_s=row.tpot_s, ep_overhead=overhead)
    except ConfigError as error:
        notes.append(f"The inside of the deployment cannot be shown: {error}")
    else:
        figures += _inside_figures(inside)
        tables.append(_hot_table(inside))
        notes += [*_one_of(inside, content.subject), *_changed(inside, row)]
    write_page(
        path,
        "results.html",
        title=content.title,
        answer=content.answer,
        brackets=content.brackets,
        figures=[
            Figure(caption=figure.caption, svg=picture(with_own_ids(figure.svg, index)), style=figure.style)
            for index, figure in enumerate(figures)
        ],
        tables=tables,
        notes=notes,
        assumptions=content.assumptions,
        reproduce=content.reproduce,
        scenarios=[
            {"name": shown.name, "text": resolved_yaml([("", shown.scenario)]).decode()} for shown in content.scenarios
        ],
        versions=f"smoes_sim {__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
    )
    return content.answer


def _chosen(results: StoredResults | StoredPlanResults) -> tuple[Scenario, _Figures, float | None]:
    """The deployment that the page is about: its scenario, its times, and what communication adds where that is known."""
    if isinstance(results, StoredPlanResults):
        index = chosen_option(results)
        return results.scenarios[index], results.options[index], None
    row = results.rows[say.subject(results)]
    return row.scenario, row.prediction, row.prediction.ep_overhead


def _inside_figures(inside: Inside) -> list[Figure]:
    caption = "Where the time goes, on the busiest of the ranks that end last"
    figures = [Figure(caption=caption, svg=draw.time_svg(inside.parts))]
    if inside.modality:
        caption = "Which experts take images (red) and text (blue); lines divide ranks"
        figures.append(Figure(caption=caption, svg=draw.modality_svg(inside.modality)))
    caption = f"The links, coloured by how long they are busy in {inside.of}: grey idle, red the busiest"
    svg = draw_topology(inside.deployment.topology, busy=inside.busy)
    return [*figures, Figure(caption=caption, svg=svg, style="wide topology")]


def _hot_table(inside: Inside) -> PageTable:
    unit, form = time_column([found.busy for found in inside.hot])
    body = [
        [
            found.group.label,
            found.kind,
            f"{found.size / 1e6:.4g}",
            f"{found.capacity / 1e9:.4g}",
            form(found.busy),
            f"{100 * found.utilisation:.1f}",
        ]
        for found in inside.hot
    ]
    header = ["link", "kind", "MB", "reached (GB/s)", f"busy ({unit})", "of the pass (%)"]
    return page_table(f"Busiest links in {inside.of}", header, body, left=2)


def _one_of(inside: Inside, name: str) -> list[str]:
    """Which deployment and which set of constants the pictures of the inside show."""
    text = f"Times inside, experts and links are those of {name}"
    if inside.num_sets > 1:
        text += f", under the one of {inside.num_sets} sets of constants whose times are nearest the values above"
    return [f"{text}; there communication adds {100 * inside.ep_overhead:.3g} % to the layers' {inside.of}."]


def _changed(inside: Inside, row: _Figures) -> list[str]:
    """A warning where the deployment does not give the same time again."""
    name, again, known = "TTFT", inside.ttft_s, row.ttft_s
    if again is None or known is None:
        name, again, known = "TPOT", inside.step_s, row.tpot_s
    if known is None or abs(again / known - 1) <= _SAME:
        return []
    return [
        f"The pictures below are of a {name} of {again:.3g} s, the results say {known:.3g} s: the model or a "
        "file has changed since. Run the command again."
    ]
