"""The answer of a plan: the cheapest option that meets what is asked, and what could be said against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from smoes_sim.planning.options import Option, all_options, wins
from smoes_sim.planning.plan_answer import CheapestOfTry, PlanAnswer, PlanOption
from smoes_sim.planning.plan_file import Plan
from smoes_sim.serving import WANTED
from smoes_sim.version import __version__

_QUANTITIES = {
    "ttft_s": ("TTFT", "s"),
    "tpot_s": ("TPOT", "s"),
    "tokens_per_s": ("throughput", "tokens/s"),
    "max_rate_per_s": ("the rate that keeps it", "requests/s"),
}
MEANING = (
    "Step level: a batch arrives together at each replica, TTFT and TPOT are those of one replica, tokens_per_s is output "
    "tokens over the time of the batch, times the replicas. No queue, no arrival process: keep a reserve for both."
)


SERVED = (
    "Under load: requests come as a Poisson process, dealt out to the replicas by chance; max_rate_per_s is the largest "
    f"rate at which {100 * WANTED:g}% of them meet the times, as serve finds it, times the replicas. TTFT, TPOT and "
    "tokens_per_s are of a batch that arrives together; what binds is what binds its throughput."
)


def make_plan(
    plan: Plan, *, on_progress: Callable[[float], None] = lambda done: None, keeps_finished: bool = False
) -> PlanAnswer:
    """The options of a plan, ranked, and the cheapest that meets what is asked.

    Cheapest first; at one price the larger margin first, then the order of the file. An option meets the SLO if it does
    in the median over the draws of its constants; ``meets_share`` says in how many it does.

    Args:
        plan: What to predict.
        on_progress: Called with the number of offers predicted, parts of one included.
        keeps_finished: Whether an interrupt (Ctrl-C) gives the answer for the offers before it; otherwise it is raised.

    Raises:
        KeyboardInterrupt: If it is interrupted and no offer is finished, or finished ones are not kept.
    """
    options, left = all_options(plan, on_progress=on_progress, keeps_finished=keeps_finished)
    shares = wins(options)
    if shares is not None:
        options = [
            replace(option, row=replace(option.row, wins=share)) for option, share in zip(options, shares, strict=True)
        ]
    meeting = [index for index in ranked(options) if options[index].row.meets_slo]
    cheapest = meeting[0] if meeting else None
    found = PlanAnswer(
        description=plan.file.description,
        slo=plan.file.slo.model_dump(mode="json", exclude_none=True),
        serving=None if plan.file.serving is None else plan.file.serving.model_dump(mode="json"),
        currency=plan.file.currency,
        options=[option.row for option in options],
        cheapest=cheapest,
        runner_up=_runner_up(options, meeting),
        safe=next((index for index in ranked(options) if options[index].row.meets_share == 1), None),
        indistinguishable=_rivals(options, cheapest),
        by_try=[_of_try(options, tried, name) for tried, name in enumerate(plan.try_names)],
        answer="",
        offers=len(plan.offers),
        offers_left=left,
        meaning=MEANING if plan.file.serving is None else SERVED,
        version=__version__,
    )
    return replace(found, answer=answer(found))


def ranked(options: Sequence[Option]) -> list[int]:
    """Indices of the options that were predicted: by price, at one price by margin, then as in the file."""
    margins = {index: option.row.margin for index, option in enumerate(options) if option.row.margin is not None}
    return sorted(margins, key=lambda index: (options[index].cost, -margins[index], index))


def _runner_up(options: Sequence[Option], meeting: Sequence[int]) -> int | None:
    """The next option that meets the SLO on another topology, or on more of the same."""
    names = [options[index].row.name for index in meeting]
    return next((index for index, name in zip(meeting, names, strict=True) if name != names[0]), None)


def _rivals(options: Sequence[Option], cheapest: int | None) -> list[int]:
    """Options that could be the answer instead, as far as the constants are known.

    With paired draws: those that win in some draw. Otherwise those that meet the SLO in some draw and cost no more.
    """
    if cheapest is None:
        return []
    best = options[cheapest]
    rivals = []
    for index, option in enumerate(options):
        share = option.row.wins
        might = option.row.meets_share > 0 and option.cost <= best.cost if share is None else share > 0
        if index != cheapest and might:
            rivals.append(index)
    return rivals


def _of_try(options: Sequence[Option], tried: int, name: str) -> CheapestOfTry:
    """The cheapest option under one entry of ``try``."""
    mine = [index for index in ranked(options) if options[index].row.tried == tried]
    first = next((index for index in mine if options[index].row.meets_slo), None)
    cost = None if first is None else options[first].cost
    return CheapestOfTry(tried_name=name, cheapest=first, cost_per_hour=cost)


def answer(plan: PlanAnswer) -> str:
    """What to rent, in a few sentences."""
    options, currency = plan.options, plan.currency
    before = ""
    if plan.offers_left:
        before = f"Interrupted with {plan.offers_left} of {plan.offers} offers to go; of the others: "
    if plan.cheapest is None:
        return before + _nothing_meets(plan)
    best = options[plan.cheapest]
    text = f"{before}Rent {best.name} ({best.tried_name}): the cheapest that meets {_asked(plan)}, at "
    text += f"{best.cost_per_hour:g} {currency}/h; {_limit(best)}."
    if plan.runner_up is not None:
        other = options[plan.runner_up]
        more = other.cost_per_hour / best.cost_per_hour - 1
        text += f" Runner-up: {other.name} ({other.tried_name}) at {other.cost_per_hour:g} {currency}/h"
        text += f" ({100 * more:+.0f} %)." if more else ", the same price with less to spare."
    return text + _certainty(plan, best)


def _certainty(plan: PlanAnswer, best: PlanOption) -> str:
    """What the answer rests on."""
    options = plan.options
    text = ""
    if best.meets_share < 1:
        text += f" It meets this in {100 * best.meets_share:.0f} % of the sets of constants only"
        safe = plan.safe
        if safe is None:
            text += "; no option does in all of them."
        else:
            cost = f"{options[safe].cost_per_hour:g} {plan.currency}/h"
            text += f"; {options[safe].name} ({options[safe].tried_name}) at {cost} does in all of them."
    if rivals := plan.indistinguishable:
        names = ", ".join(f"{options[index].name} ({options[index].tried_name})" for index in rivals[:3])
        more = f" and {len(rivals) - 3} more" if len(rivals) > 3 else ""
        text += f" What is known of the constants does not separate it from: {names}{more}."
    return text


def _nothing_meets(plan: PlanAnswer) -> str:
    margins = {index: row.margin for index, row in enumerate(plan.options) if row.margin is not None}
    text = f"Nothing on offer meets {_asked(plan)}."
    if margins:
        near = plan.options[max(margins, key=lambda index: margins[index])]
        text += f" Nearest: {near.name} ({near.tried_name}), {_limit(near)}."
    if lacking := [row for row in plan.options if row.fits is False]:
        text += f" {len(lacking)} of {len(plan.options)} options do not fit into memory."
    return text


def _limit(row: PlanOption) -> str:
    """The thing that is nearest to its limit, and what holds it back."""
    key = row.tightest
    if key is None or row.margin is None:
        return "nothing was predicted"
    name, unit = _QUANTITIES[key]
    low_high = row.interval(key)
    ends = f" [{_number(low_high[0])}, {_number(low_high[1])}]" if low_high else ""
    value = f"{_number(getattr(row, key))}{ends} {unit}"
    return f"tightest is {name} with {value} ({row.margin:.2f} times what is asked), bound by {row.binds}"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _asked(plan: PlanAnswer) -> str:
    """What must be reached, in words."""
    words = {"ttft": "TTFT <= {}", "tpot": "TPOT <= {}", "tokens_per_s": "{:g} tokens/s"}
    text = ", ".join(words[key].format(value) for key, value in plan.slo.items())
    if plan.serving is None:
        return text
    rate = plan.serving["rate"]
    return f"{text} for {100 * WANTED:g} % of requests at {rate}"
