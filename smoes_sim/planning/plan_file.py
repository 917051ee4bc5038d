"""The plan file: what must be reached, what is on offer at which price, what is tried on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.scenario import scenario_document, with_named_sections
from smoes_sim.serving import check_both_phases
from smoes_sim.sweeps import Point, in_one_line, make_point
from smoes_sim.units import Arrivals, Duration
from smoes_sim.yaml_files import Spec, named_document

_SHIPPED = Path(__file__).parents[1] / "data" / "plans"
_DATE = re.compile(r"\b20\d\d-\d\d\b")
Money = Annotated[float, Field(gt=0)]


class Slo(Spec):
    """What must be reached: times of one replica, output tokens per second of all replicas together.

    With ``serving`` the times are those of single requests, of which 90% must meet both.
    """

    ttft: Duration | None = Field(None, description="Most seconds until the first token of a batch that arrives together.")
    tpot: Duration | None = Field(None, description="Most seconds per output token after the first.")
    tokens_per_s: Money | None = Field(None, description="Fewest output tokens per second, over all replicas.")

    @model_validator(mode="after")
    def _something_is_asked(self) -> Slo:
        if self.ttft is None and self.tpot is None and self.tokens_per_s is None:
            raise ValueError("nothing is asked for, so the cheapest offer would do. Give ttft, tpot or tokens_per_s.")
        if 0.0 in {self.ttft, self.tpot}:
            raise ValueError("a time of 0 s cannot be met. Give a longer one.")
        return self


class Serving(Spec):
    """Requests that arrive one by one, as ``serve`` takes them; without this section a batch arrives together."""

    rate: Arrivals = Field(description="Requests per second that come as a Poisson process, over all replicas.")
    requests: Annotated[int, Field(ge=1, description="Requests of each run of the search, at least.")] = 400
    max_batch_tokens: Annotated[int, Field(ge=1, description="Tokens of an attention group in a step.")] = 8192
    max_sequences: Annotated[int, Field(ge=1, description="Sequences of a group that run at a time.")] = 256


class Candidate(Spec):
    """One entry of the price list: a whole topology, rented by the hour in some numbers of replicas."""

    topology: Annotated[str | dict[str, Any], Field(description="A shipped name, a file, or a topology written in place.")]
    settings: dict[str, Any] = Field({}, alias="set", description="Settings that go with it, such as compute.device.")
    cost_per_hour: Annotated[Money, Field(description="Price of one replica (all of the topology) for an hour.")]
    source: Annotated[str, Field(description='Who asks that price, and the day (2026-11-24), or "assumed: ...".')]
    replicas: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field([1])

    @field_validator("source")
    @classmethod
    def _price_has_an_origin(cls, text: str) -> str:
        if not text.startswith("assumed: ") and not _DATE.search(text):
            raise ValueError(f'"{text}": a price needs a day. Write who asks it and when (2026-11-24), or "assumed: why".')
        return text

    @field_validator("replicas")
    @classmethod
    def _numbers_differ(cls, numbers: list[int]) -> list[int]:
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{numbers}: a number is given twice. Leave one out.")
        return numbers

    @property
    def name(self) -> str:
        """The topology in one word."""
        return self.topology if isinstance(self.topology, str) else str(self.topology.get("kind", "written in place"))


class PlanFile(Spec):
    """The file: every candidate, in every number of replicas, under every entry of ``try``.

    ``scenario`` gives model, workload and everything that candidates share; its topology is replaced.
    """

    description: str = ""
    scenario: Annotated[
        str | dict[str, Any], Field(description="A shipped scenario, a file, or one written in place without a topology.")
    ]
    slo: Slo
    serving: Serving | None = None
    currency: Annotated[str, Field(min_length=1)] = "USD"
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    tries: Annotated[
        list[dict[str, Any]],
        Field(alias="try", min_length=1, description="Routings and placements; the first is what is done today."),
    ] = Field([{}])

    @model_validator(mode="after")
    def _served_is_asked_once(self) -> PlanFile:
        if self.serving is not None and self.slo.tokens_per_s is not None:
            raise ValueError("serving.rate and slo.tokens_per_s both say how much is to be served. Leave one out.")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A candidate under one entry of ``try``, before the number of replicas."""

    candidate: Candidate
    tried: int
    point: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan file and what is to be predicted for it."""

    file: PlanFile
    offers: Sequence[Offer]

    @property
    def try_names(self) -> list[str]:
        """Each entry of ``try`` in one line."""
        offers = {offer.tried: offer for offer in self.offers}
        return [_try_name(offers[index]) for index in range(len(self.file.tries))]


def _try_name(offer: Offer) -> str:
    own = {
        key: value
        for key, value in offer.point.settings.items()
        if key != "topology" and key not in offer.candidate.settings
    }
    return in_one_line(own) or "as it is"


def plan_names() -> list[str]:
    """Names of the shipped plans, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_plan(name: str, overrides: Sequence[str] = ()) -> Plan:
    """A shipped plan or a file; ``a.b=value`` overrides change the plan, such as ``slo.ttft='2 s'``.

    An offer that breaks a rule of scenarios is kept with its problem, so that the others can go on.

    Raises:
        ConfigError: If the file breaks a rule, no offer is a valid scenario, or one asks for one phase alone.
    """
    document = named_document(name, _SHIPPED, what="plan")
    for assignment in overrides:
        document.override(assignment)
    file = document.validate(PlanFile)
    for index, (candidate, tried) in _twice_set(file):
        raise ConfigError(
            f"{document.where(('candidates', index))}: {tried} is set by {candidate} and by try. Keep one of them."
        )
    base = (
        scenario_document(file.scenario)
        if isinstance(file.scenario, str)
        else with_named_sections(document.fork("scenario"))
    )
    offers = [
        Offer(
            candidate=candidate,
            tried=tried,
            point=make_point(base, {"topology": candidate.topology} | candidate.settings | settings),
        )
        for candidate in file.candidates
        for tried, settings in enumerate(file.tries)
    ]
    if all(offer.point.scenario is None for offer in offers):
        raise ConfigError(f"{document.name}: no offer is a valid scenario: {offers[0].point.problem}")
    for offer in offers:
        if offer.point.scenario is not None:
            try:
                check_both_phases(offer.point.scenario)
            except ConfigError as error:
                raise error.at(document.name) from None
    return Plan(file=file, offers=offers)


def _twice_set(file: PlanFile) -> list[tuple[int, tuple[str, str]]]:
    """Keys that a candidate and an entry of ``try`` both set: index of the candidate, its name, the key."""
    tried = {key for settings in file.tries for key in settings}
    return [
        (index, (candidate.name, key))
        for index, candidate in enumerate(file.candidates)
        for key in ("topology", *candidate.settings)
        if key in tried
    ]
