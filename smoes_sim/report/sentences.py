"""What a report says in words: the answer, what the brackets mean, what it all rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from smoes_sim.display.tables import Interval, percent, ranged, time_column
from smoes_sim.prediction.changes import Change
from smoes_sim.prediction.constants import INTERVAL, load_calibration
from smoes_sim.results.read import StoredResults, StoredRow
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.study import in_one_line

_SETTING = re.compile(r"\s+(?=[\w.]+=)")
"""Between two settings of a name; a value may have blanks inside, such as "10 Gb/s"."""


class Timed(Protocol):
    """A prediction or an option of a plan: quantities with their intervals."""

    def interval(self, key: str) -> Interval | None:
        """The interval of a quantity."""


class Placed(Protocol):
    """What is known of the placement of a prediction or an option."""

    @property
    def expert_placement(self) -> str:
        """Rule that gives experts their slots."""

    @property
    def token_placement(self) -> str:
        """Rule that gives tokens their home ranks."""

    @property
    def not_counted(self) -> list[str]:
        """What the times leave out."""


def number(value: float) -> str:
    """Three digits, or all before the decimal point.

    Example:
        >>> number(12.345), number(12345.6)
        ('12.3', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def rate(found: Timed, key: str) -> str:
    """A quantity without a unit, with its interval; a dash where it has no value."""
    return ranged(getattr(found, key), found.interval(key), number)


def share(found: Timed, key: str) -> str:
    """A share in percent with its interval."""
    return ranged(getattr(found, key), found.interval(key), percent)


def time(found: Timed, key: str) -> str:
    """A time with its interval and unit."""
    value = getattr(found, key)
    if value is None:
        return "-"
    unit, form = time_column([value, *(found.interval(key) or ())])
    return f"{ranged(value, found.interval(key), form)} {unit}"


def times(found: Timed) -> str:
    """TTFT, TPOT and output rate with their intervals, without what was not asked for."""
    names = {"ttft_s": "TTFT", "tpot_s": "TPOT"}
    parts = [f"{name} {time(found, key)}" for key, name in names.items() if getattr(found, key) is not None]
    return ", ".join([*parts, f"{rate(found, 'tokens_per_s')} output tokens/s"])


def change(found: Mapping[str, Change] | None, key: str) -> str:
    """A change in percent with its interval; a dash where it is not known."""
    known = (found or {}).get(key)
    return "-" if known is None else str(known)


def subject(results: StoredResults) -> int:
    """Index of the row that the page is about: the one with most tokens per second."""
    return max(range(len(results.rows)), key=lambda index: results.rows[index].prediction.tokens_per_s)


def title(results: StoredResults) -> str:
    """What the page is about."""
    first = results.rows[0]
    return results.description or first.scenario.description or f"{first.prediction.model} on {first.prediction.topology}"


def answer(results: StoredResults) -> str:
    """The first sentence of the page, with its interval."""
    rows, chosen = results.rows, subject(results)
    best = rows[chosen].prediction
    if results.kind == "simulate":
        of = "a decode step" if best.phase == "decode" else "prefill"
        added = f"expert-parallel communication adds {share(best, 'ep_overhead')} % of {of}"
        return f"{best.model} on {best.topology}: {times(best)}; {added}."
    names = names_of(rows)
    text = f"Most output of {len(rows)} deployments: {names[chosen]}, {times(best)}."
    if results.kind == "compare":
        return text + _against_baseline(results, names)
    return _compared(results) or text + _least(rows, names)


def names_of(rows: Sequence[StoredRow]) -> list[str]:
    """The names of the rows without the settings that all of them share."""
    return distinct([row.name for row in rows])


def distinct(names: Sequence[str]) -> list[str]:
    """Names without the settings that all of them share.

    Example:
        >>> distinct(["olmoe routing.policy=standard seed=1", "olmoe routing.policy=smoes seed=1"])
        ['routing.policy=standard', 'routing.policy=smoes']
    """
    words = [_SETTING.split(name) for name in names]
    shared = set(words[0]).intersection(*words[1:]) if len(names) > 1 else set()
    return [" ".join(word for word in parts if word not in shared) or name for parts, name in zip(words, names, strict=True)]


def _against_baseline(results: StoredResults, names: Sequence[str]) -> str:
    chosen, base = subject(results), results.baseline
    if chosen == base:
        return " It is the row that the others are compared with."
    found = (results.rows[chosen].changes or {}).get("tokens_per_s")
    if found is None or not (found.value or found.interval):
        return ""
    text = f" Against {names[base] if base else 'the first row'} that is {100 * found.value:+.1f} %"
    if found.interval is None:
        return text + "."
    low, high = found.interval
    text += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return text + ("." if low * high > 0 else "; its sign is not certain, as the constants are not known well enough.")


def _compared(results: StoredResults) -> str:
    """What changes over a sweep whose points are compared with one another; "" if they are not."""
    if not results.against:
        return ""
    changed = [
        (found, name)
        for row, name in zip(results.rows, names_of(results.rows), strict=True)
        if (found := (row.changes or {}).get("tokens_per_s")) is not None and found.value
    ]
    if not changed:
        return ""
    most, least = (extreme(changed, key=lambda pair: pair[0].value) for extreme in (max, min))
    ends = [found.interval or (found.value, found.value) for found, _ in changed]
    better, worse = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    first, last = (f"{found} % ({name})" for found, name in (least, most))
    return (
        f"Against {in_one_line(results.against)}, output tokens/s change by {first} to {last}; of {len(changed)} points "
        f"{better} gain, {worse} lose, {len(changed) - better - worse} are uncertain."
    )


def _least(rows: Sequence[StoredRow], names: Sequence[str]) -> str:
    worst = min(range(len(rows)), key=lambda index: rows[index].prediction.tokens_per_s)
    return f" Least: {names[worst]}, {times(rows[worst].prediction)}."


def brackets(scenarios: Sequence[Scenario], *, has_intervals: bool) -> str:
    """What the brackets mean."""
    if not has_intervals:
        return "No interval: all constants are given as single numbers."
    if any(scenario.calibration for scenario in scenarios):
        low, high = INTERVAL
        return f"In brackets: {low}th and {high}th percentile over the draws of the calibration; the value is their median."
    return (
        "In brackets: both ends of the stated ranges of the devices' efficiencies. Links run at their nominal rates and "
        "software is free, so communication times are lower bounds."
    )


def assumptions(scenario: Scenario, found: Placed) -> list[str]:
    """What the numbers of a deployment rest on."""
    return [
        f"Routing: {_routing(scenario)}",
        f"Experts {found.expert_placement}, tokens {found.token_placement}; library {scenario.communication.library}, "
        f"deduplication {scenario.communication.deduplicate}, overlap {scenario.overlap}.",
        _constants(scenario),
        "Network: links shared max-min fairly (fluid); no packets, no queues, no order of messages.",
        f"Not counted: {', '.join(found.not_counted)}.",
    ]


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
        return f"Constants: no calibration; efficiencies of {device} as stated, software costs as in the scenario."
    calibration = load_calibration(scenario.calibration)
    open_ones = [name for name, parameter in calibration.parameters.items() if not parameter.identified]
    text = f"Constants: calibration {scenario.calibration}, {calibration.num_draws} draws, "
    text += f"fitted on {len(calibration.fitted_on)} rows"
    return text + (f"; not identified by them: {', '.join(open_ones)}." if open_ones else ".")
