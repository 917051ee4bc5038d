"""What the page of ``simulate``, ``compare`` or ``sweep`` says: the answer, a picture and a table of all rows."""

from __future__ import annotations

from collections.abc import Sequence

from smoes_sim.display.tables import ranged, time_column
from smoes_sim.report import figures as draw
from smoes_sim.report import sentences as say
from smoes_sim.report.sections import MOST_ROWS, Content, Figure, PageTable, ShownScenario, page_table
from smoes_sim.results.read import StoredResults, StoredRow
from smoes_sim.sweeps.study import text_at

_TIMES = {"ttft_s": "TTFT", "tpot_s": "TPOT"}
_MOST_SCENARIOS = 12


def rows_content(results: StoredResults) -> Content:
    """What the page says, without the inside of the chosen deployment."""
    rows, chosen = results.rows, say.subject(results)
    row = rows[chosen]
    caution = [f"Where not to trust it: {results.caution}"] if results.caution else []
    return Content(
        title=say.title(results),
        answer=say.answer(results),
        brackets=say.brackets(
            [each.scenario for each in rows], has_intervals=any(each.prediction.intervals for each in rows)
        ),
        figures=_figures(results),
        tables=_tables(results),
        assumptions=[
            *caution,
            *(f"Check: {warning}" for warning in row.prediction.warnings),
            *say.assumptions(row.scenario, row.prediction),
            f"Memory: {row.prediction.memory}.",
        ],
        reproduce=_reproduce(results),
        scenarios=_scenarios(results, chosen),
        subject=say.names_of(rows)[chosen],
    )


def _figures(results: StoredResults) -> list[Figure]:
    """What was swept; otherwise latency against output."""
    rows = results.rows
    if len(rows) == 1:
        return []
    if results.kind == "sweep" and (axes := _axes(rows)):
        return [
            Figure(caption=f"{name} over what was swept; bands are intervals", svg=draw.sweep_svg(rows, key, *axes))
            for key, name in ((_latency(rows), _TIMES[_latency(rows)]), ("tokens_per_s", "Output tokens per second"))
        ]
    latency = _latency(rows)
    points = [
        draw.TradePoint(
            label=name,
            latency=value,
            latency_ends=row.prediction.interval(latency) or (value, value),
            rate=row.prediction.tokens_per_s,
            rate_ends=row.prediction.interval("tokens_per_s") or (row.prediction.tokens_per_s,) * 2,
        )
        for name, row in zip(say.names_of(rows), rows, strict=True)
        if (value := getattr(row.prediction, latency)) is not None
    ]
    caption = "Latency and output; up and to the left is better, bars are intervals"
    return [Figure(caption=caption, svg=draw.trade_svg(points, _TIMES[latency]))]


def _latency(rows: Sequence[StoredRow]) -> str:
    """The time that pictures are drawn over: TTFT, or TPOT where a row asks for decode alone."""
    return "tpot_s" if any(row.prediction.ttft_s is None for row in rows) else "ttft_s"


def _axes(rows: Sequence[StoredRow]) -> tuple[str, str | None] | None:
    """The swept key with most values and the other one, if there are no more than two; None if a picture has other axes."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    values = {key: len({text_at(row.settings, key) for row in rows}) for key in keys}
    swept = sorted((key for key in keys if values[key] > 1), key=lambda key: -values[key])
    places = {tuple(text_at(row.settings, key) for key in swept) for row in rows}
    if not 1 <= len(swept) <= 2 or len(places) < len(rows):
        return None
    return swept[0], swept[1] if len(swept) == 2 else None


def _tables(results: StoredResults) -> list[PageTable]:
    rows = results.rows
    shown = rows[:MOST_ROWS]
    has_prefill = any(row.prediction.ttft_s is not None for row in shown)
    changed = {"TTFT change (%)" if has_prefill else "TPOT change (%)": "ttft_s" if has_prefill else "tpot_s"}
    changed |= {"tokens/s change (%)": "tokens_per_s"}
    if any(row.changes is None for row in shown):
        changed = {}
    times = {
        key: time_column(
            [value for row in shown for value in (getattr(row.prediction, key), *(row.prediction.interval(key) or ()))]
        )
        for key in _TIMES
        if has_prefill or key != "ttft_s"
    }
    header = [
        "deployment",
        *(f"{_TIMES[key]} ({unit})" for key, (unit, _) in times.items()),
        "output tokens/s",
        "EP overhead (%)",
        "GB between ranks",
        "max/mean load",
        *changed,
    ]
    body = [
        [
            name,
            *(ranged(getattr(row.prediction, key), row.prediction.interval(key), form) for key, (_, form) in times.items()),
            say.rate(row.prediction, "tokens_per_s"),
            say.share(row.prediction, "ep_overhead"),
            f"{row.prediction.bytes_remote / 1e9:.3g}",
            f"{row.prediction.imbalance:.2f}",
            *(say.change(row.changes, key) for key in changed.values()),
        ]
        for name, row in zip(say.names_of(rows), shown, strict=False)
    ]
    more = f", the first {len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""
    title = f"All deployments{more}" if len(rows) > 1 else "The deployment"
    return [page_table(title, header, body, words=[0]), *_failed(results)]


def _failed(results: StoredResults) -> list[PageTable]:
    """The points of a sweep that have no prediction, and why."""
    if not results.failed:
        return []
    body = [[point.name, point.error] for point in results.failed[:MOST_ROWS]]
    title = f"{len(results.failed)} of {len(results.failed) + len(results.rows)} points failed"
    return [page_table(title, ["point", "why"], body, left=2, words=[0, 1])]


def _scenarios(results: StoredResults, chosen: int) -> list[ShownScenario]:
    """The scenario of the answer, then the others that the command needs to give the results again."""
    names, numbers = say.names_of(results.rows), dict.fromkeys([chosen, 0])
    if results.kind == "compare":
        numbers = dict.fromkeys([chosen, *range(min(len(names), _MOST_SCENARIOS))])
    return [
        ShownScenario(
            name=f"{_file_of(results, index, chosen)}: scenario of {names[index]}", scenario=results.rows[index].scenario
        )
        for index in numbers
    ]


def _file_of(results: StoredResults, index: int, chosen: int) -> str:
    """The name under which a scenario is to be saved."""
    if results.kind == "compare":
        return f"{index + 1}.yaml"
    return "scenario.yaml" if index == chosen else "first.yaml"


def _reproduce(results: StoredResults) -> str:
    """The commands that give the results again from the scenarios on the page."""
    if results.kind == "simulate":
        return "Save the scenario as scenario.yaml: smoes-sim simulate scenario.yaml"
    if results.kind == "sweep":
        return (
            "Save the scenario as scenario.yaml, for this point alone: smoes-sim simulate scenario.yaml; for all of them: "
            "smoes-sim sweep with the file that was used then."
        )
    number = len(results.rows)
    if number > _MOST_SCENARIOS:
        shown = f"the first {_MOST_SCENARIOS} of {number} and that of the answer"
        return f"smoes-sim compare 1.yaml 2.yaml ...; here are {shown}."
    files = " ".join(f"{index + 1}.yaml" for index in range(number))
    baseline = f" --baseline {results.baseline}" if results.baseline else ""
    return f"Save the scenarios: smoes-sim compare {files}{baseline}"
