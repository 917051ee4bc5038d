"""What a report says in words: the answer, what the brackets mean, what it all rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from smoes_sim.prediction.constants import INTERVAL, load_calibration
from smoes_sim.report.inline import unit_of
from smoes_sim.results.read import Results
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.study import in_one_line

Row = dict[str, Any]
_SETTING = re.compile(r"\s+(?=[\w.]+=)")
"""Between two settings of a name; a value may have blanks inside, such as "10 Gb/s"."""


def subject(results: Results) -> int:
    """The row that the page is about: the plan's choice, or what gives most tokens per second."""
    rows = results.rows
    if results.kind == "plan":
        chosen = results.document["cheapest"]
        if chosen is not None:
            return rows.index(results.document["options"][chosen])
        return max(range(len(rows)), key=lambda index: rows[index]["margin"])
    return max(range(len(rows)), key=lambda index: rows[index]["tokens_per_s"])


def title(results: Results) -> str:
    """What the page is about."""
    row = results.rows[0]
    described = results.document.get("description") or results.scenarios[0].description
    return str(described or f"{row['model']} on {row['topology']}")


def answer(results: Results) -> str:
    """The first sentence of the page, with its interval."""
    rows = results.rows
    best = rows[subject(results)]
    if results.kind == "plan":
        return str(results.document["answer"])
    if results.kind == "simulate":
        share = f"{ranged(best, 'ep_overhead', factor=100)} % of prefill is added by expert-parallel communication"
        return f"{best['model']} on {best['topology']}: {times(best)}; {share}."
    names = names_of(rows)
    text = f"Most output of {len(rows)} deployments: {names[subject(results)]}, {times(best)}."
    if results.kind == "compare":
        return text + _against_baseline(results, names)
    return _compared(results) or text + _worst(rows, names)


def times(row: Row) -> str:
    """The three quantities with their intervals."""
    parts = [f"TTFT {time(row, 'ttft_s')}"]
    parts += [f"TPOT {time(row, 'tpot_s')}"] * (row.get("tpot_s") is not None)
    return ", ".join([*parts, f"{ranged(row, 'tokens_per_s')} output tokens/s"])


def ranged(row: Row, key: str, *, factor: float = 1.0) -> str:
    """A value with its interval."""
    if row.get(key) is None:
        return "-"
    interval = row["intervals"].get(key)
    ends = f" [{_number(factor * interval[0])}, {_number(factor * interval[1])}]" if interval else ""
    return f"{_number(factor * row[key])}{ends}"


def time(row: Row, key: str) -> str:
    """A time with its interval, in the unit that suits it."""
    if row.get(key) is None:
        return "-"
    size, unit = unit_of(row[key])
    return f"{ranged(row, key, factor=1 / size)} {unit}"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def names_of(rows: Sequence[Row]) -> list[str]:
    """The rows' names without the settings that all of them share; options of a plan with what is tried."""
    if "try" in rows[0]:
        return [f"{row['name']} ({row['try']})" for row in rows]
    words = [_SETTING.split(str(row["name"])) for row in rows]
    shared = set(words[0]).intersection(*words[1:]) if len(rows) > 1 else set()
    return [
        " ".join(word for word in name if word not in shared) or str(row["name"])
        for name, row in zip(words, rows, strict=True)
    ]


def _against_baseline(results: Results, names: Sequence[str]) -> str:
    chosen, base = subject(results), results.document.get("baseline", 0)
    if chosen == base:
        return " It is the row that the others are compared with."
    row = results.rows[chosen]
    change, ends = row["change"].get("tokens_per_s"), row["change"].get("tokens_per_s_interval")
    if change is None or not (change or ends):
        return ""
    text = f" Against {names[base] if base else 'the first row'} that is {100 * change:+.1f} %"
    if ends is None:
        return text + "."
    text += f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"
    return text + ("." if ends[0] * ends[1] > 0 else "; what is known of the constants does not tell its sign.")


def _compared(results: Results) -> str:
    """What changes over a sweep whose points are compared with one another; "" if they are not."""
    against = results.document.get("against")
    known = [
        (row["change"], name) for row, name in zip(results.rows, names_of(results.rows), strict=True) if "change" in row
    ]
    changed = [(change, name) for change, name in known if change.get("tokens_per_s")]
    if not against or not changed:
        return ""
    most, least = (extreme(changed, key=lambda pair: pair[0]["tokens_per_s"]) for extreme in (max, min))
    ends = [change.get("tokens_per_s_interval", [change["tokens_per_s"]] * 2) for change, _ in changed]
    better, worse = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    first, last = (f"{changed_by(change, 'tokens_per_s')} % ({name})" for change, name in (least, most))
    return (
        f"Against {in_one_line(against)}, output tokens/s change by {first} to {last}; of {len(changed)} points "
        f"{better} gain, {worse} lose, {len(changed) - better - worse} cannot be told."
    )


def changed_by(change: Row, key: str) -> str:
    """A relative change in percent with its interval."""
    if key not in change:
        return "-"
    ends = change.get(f"{key}_interval")
    return f"{100 * change[key]:+.1f}" + (f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]" if ends else "")


def _worst(rows: Sequence[Row], names: Sequence[str]) -> str:
    worst = min(range(len(rows)), key=lambda index: rows[index]["tokens_per_s"])
    return f" Least: {names[worst]}, {times(rows[worst])}."


def brackets(scenarios: Sequence[Scenario], rows: Sequence[Row]) -> str:
    """What stands in brackets."""
    if not any(row["intervals"] for row in rows):
        return "No interval: all constants are given as single numbers."
    if any(scenario.calibration for scenario in scenarios):
        low, high = INTERVAL
        return f"In brackets: {low}th and {high}th percentile over the draws of the calibration, the value is their median."
    return (
        "In brackets: both ends of the ranges in which the devices' efficiencies are stated to lie; links run at their "
        "nominal rates, which real ones do not reach."
    )


def assumptions(results: Results, scenario: Scenario) -> list[str]:
    """What the numbers rest on, for the deployment that the page is about."""
    row = results.rows[subject(results)]
    lines = [
        f"Routing: {_routing(scenario)}",
        f"Experts {row['expert_placement']}, tokens {row['token_placement']}; library {scenario.communication.library}, "
        f"deduplication {scenario.communication.deduplicate}, overlap {scenario.overlap}.",
        _constants(scenario),
        "Network: links shared max-min fairly (fluid); no packets, no queues, no order of messages.",
        f"Not counted: {', '.join(row['not_counted'])}.",
    ]
    if caution := results.document.get("caution"):
        lines.insert(0, f"Where not to trust it: {caution}")
    if results.kind == "plan":
        prices = {option["topology"]: option["cost_source"] for option in results.document["options"]}
        lines += [results.document["meaning"], *(f"Price of {name}: {source}" for name, source in prices.items())]
    elif (memory := row.get("memory")) is not None:
        fits = (
            "fits"
            if memory["fits"]
            else f"does NOT fit, needs {memory['ranks_needed'] or 'other devices, no number of'} ranks"
        )
        used = f"{memory['bytes_needed'] / 1e9:.3g} of {memory['bytes_usable'] / 1e9:.3g} GB on the busiest rank"
        lines.append(f"Memory: {fits} ({used}).")
    return lines


def _routing(scenario: Scenario) -> str:
    if scenario.routing.trace is not None:
        return f"captured, from {scenario.routing.trace}."
    if not scenario.model_shape.experts:
        return "none, the model is dense."
    rates = scenario.routing.rates
    fitted = "published rates and index" if rates == "published" else "given rates" if rates else "the published index"
    return f"synthetic, policy {scenario.routing.name}, fitted to {fitted}; not captured from a model."


def _constants(scenario: Scenario) -> str:
    if scenario.calibration is None:
        device = scenario.compute.device
        return f"Constants: nothing is calibrated; efficiencies of {device} as stated, software costs as in the scenario."
    calibration = load_calibration(scenario.calibration)
    open_ones = [name for name, parameter in calibration.parameters.items() if not parameter.identified]
    text = f"Constants: calibration {scenario.calibration}, {calibration.num_draws} draws, "
    text += f"fitted on {len(calibration.fitted_on)} rows"
    return text + (f"; not pinned down by them: {', '.join(open_ones)}." if open_ones else ".")
