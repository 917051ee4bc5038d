"""What the page of a plan says: which option to rent, every option over its price, and what holds each back."""

from __future__ import annotations

from collections.abc import Sequence

from smoes_sim.display.tables import percent, ranged, time_column
from smoes_sim.report import figures as draw
from smoes_sim.report import sentences as say
from smoes_sim.report.sections import MOST_ROWS, Content, Figure, PageTable, ShownScenario, page_table
from smoes_sim.results.expected import PredictedOption, StoredOption, StoredPlan
from smoes_sim.results.read import StoredPlanResults

_SHORT = {"ttft_s": "TTFT", "tpot_s": "TPOT", "tokens_per_s": "tokens/s", "max_rate_per_s": "requests/s"}


def chosen_option(results: StoredPlanResults) -> int:
    """Index of the predicted option that the page is about: the plan's choice, or the one with the largest margin."""
    if results.plan.cheapest is None:
        return max(range(len(results.options)), key=lambda index: results.options[index].margin)
    cheapest = results.plan.options[results.plan.cheapest]
    return next(index for index, option in enumerate(results.options) if option is cheapest)


def plan_content(results: StoredPlanResults) -> Content:
    """What the page says, without the inside of the chosen option."""
    plan, chosen = results.plan, chosen_option(results)
    option, scenario = results.options[chosen], results.scenarios[chosen]
    prices = {each.topology: each.cost_source for each in plan.options}
    shown = [ShownScenario(name=f"scenario.yaml: scenario of {_name(option)}", scenario=scenario)]
    if results.scenarios[0] is not scenario:
        first = results.options[0]
        shown.append(ShownScenario(name=f"first.yaml: scenario of {_name(first)}", scenario=results.scenarios[0]))
    return Content(
        title=plan.description or scenario.description or f"{scenario.model_shape.name} on {option.topology}",
        answer=plan.answer,
        brackets=say.brackets(results.scenarios, has_intervals=any(each.intervals for each in results.options)),
        figures=_figures(results),
        tables=_tables(plan),
        assumptions=[
            *say.assumptions(scenario, option),
            plan.meaning,
            *(f"Price of {name}: {source}" for name, source in prices.items()),
        ],
        reproduce="Save the scenario as scenario.yaml, for this option alone: smoes-sim simulate scenario.yaml; for all of "
        "them: smoes-sim plan with the file that was used then.",
        scenarios=shown,
        subject=_name(option),
    )


def _name(option: StoredOption) -> str:
    return f"{option.name} ({option.tried_name})"


def _figures(results: StoredPlanResults) -> list[Figure]:
    """Price against what is asked."""
    points = [_frontier_point(option) for option in results.options if option.margin]
    if not points:
        return []
    lowest = min(value for point in points for value in (point.low, point.margin) if value) / 2  # the axis is logarithmic
    caption = "Price, and how far inside what is asked: options above the line meet everything; bars are intervals"
    return [Figure(caption=caption, svg=draw.frontier_svg(points, currency=results.plan.currency, lowest=lowest))]


def _frontier_point(option: PredictedOption) -> draw.FrontierPoint:
    low, high = option.interval("margin") or (option.margin, option.margin)
    return draw.FrontierPoint(
        cost=option.cost_per_hour,
        margin=option.margin,
        low=low,
        high=high,
        tried=option.tried_name,
        label=option.name if option.tried == 0 else "",
    )


def _tables(plan: StoredPlan) -> list[PageTable]:
    options = sorted(plan.options, key=lambda option: (option.cost_per_hour, option.name, option.tried))
    return [_all_options(plan, options), _by_try(plan), _binding(options)]


def _all_options(plan: StoredPlan, options: Sequence[StoredOption]) -> PageTable:
    rate, of_batch = ("tokens_per_s", "") if plan.serving is None else ("max_rate_per_s", " of a batch")
    keys = ("ttft_s", "tpot_s")
    columns = {
        key: time_column([value for option in options for value in (getattr(option, key), *(option.interval(key) or ()))])
        for key in keys
    }
    times = [f"{_SHORT[key]}{of_batch} ({columns[key][0]})" for key in keys]
    header = [
        "option",
        "tried",
        f"{plan.currency}/h",
        *times,
        _SHORT[rate],
        "margin",
        "meets (sets of constants)",
        "bound by",
    ]
    body = [
        [
            option.name,
            option.tried_name,
            f"{option.cost_per_hour:g}",
            *(ranged(getattr(option, key), option.interval(key), columns[key][1]) for key in keys),
            say.rate(option, rate),
            say.rate(option, "margin"),
            "-" if option.margin is None else f"{'yes' if option.meets_slo else 'no'} ({100 * option.meets_share:.0f} %)",
            option.problem or option.binds or "-",
        ]
        for option in options[:MOST_ROWS]
    ]
    return page_table("Every option", header, body, left=2, words=[1, 8])


def _by_try(plan: StoredPlan) -> PageTable:
    body = [
        [
            entry.tried,
            "none" if entry.cheapest is None else plan.options[entry.cheapest].name,
            "-" if entry.cost_per_hour is None else f"{entry.cost_per_hour:g}",
        ]
        for entry in plan.by_try
    ]
    header = ["tried", "cheapest", f"{plan.currency}/h"]
    return page_table("What another routing or placement changes", header, body, left=2, words=[0])


def _binding(options: Sequence[StoredOption]) -> PageTable:
    """How much shorter the tightest time gets when a resource takes half as long."""
    known = [option for option in options if option.sensitivity and option.tightest is not None]
    names = list(dict.fromkeys(name for option in known for name in option.sensitivity))
    body = [
        [
            option.name,
            option.tried_name,
            _SHORT[option.tightest or ""],
            *(percent(option.sensitivity.get(name)) for name in names),
        ]
        for option in known[:MOST_ROWS]
    ]
    title = "What binds: by how many % the tightest time falls when one resource takes half as long (imbalance: is gone)"
    return page_table(title, ["option", "tried", "tightest", *names], body, left=3, words=[1])
