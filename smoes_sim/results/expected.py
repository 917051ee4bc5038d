"""What a ``summary.json`` must hold to be read; files that were written or changed by others are refused with the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from smoes_sim.display.tables import Interval
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.prediction import Prediction

Kind = Literal["simulate", "compare", "sweep", "plan"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
Index = Annotated[int, Field(ge=0)]
REMEDY = "Run the command again with this version."


class Part(BaseModel):
    """A part of a document: strict about its own keys, other keys may be there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


P = TypeVar("P", bound=Part)


class _Memory(Part):
    fits: bool
    ranks_needed: int | None
    bytes_needed: float
    bytes_usable: float
    weights: dict[str, float]
    buffers: dict[str, float]
    cache_bytes_per_token: float
    cache_tokens: int
    cache_capacity_tokens: int


def _predicted() -> type[Part]:
    """A row with a prediction: every field of :class:`Prediction` as it is written to JSON."""
    hints = get_type_hints(Prediction) | {
        "ttft_s": Positive | None,
        "tokens_per_s": Positive,
        "transmission_rate": dict[str, float | None] | None,
        "memory": _Memory,
        "intervals": dict[str, Ends],
    }
    required = {part.name for part in fields(Prediction) if part.default is MISSING and part.default_factory is MISSING}
    required |= {"name", "intervals"}
    known: dict[str, Any] = {
        part.name: (hints[part.name], ...) if part.name in required else (hints[part.name], None)
        for part in fields(Prediction)
        if part.name != "draws"
    }
    return create_model("PredictedRow", __base__=Part, **known)


PredictedRow = _predicted()


class ComparedRow(PredictedRow):  # type: ignore[valid-type, misc]  # a class made from the fields of another
    """A row of ``compare``."""

    change: dict[str, float | Ends]


class PredictedPoint(PredictedRow):  # type: ignore[valid-type, misc]  # as above
    """A point of a sweep with a prediction."""

    set: dict[str, Any]
    error: None
    change: dict[str, float | Ends] | None = None


class FailedPoint(Part):
    """A point of a sweep without a prediction."""

    name: str
    error: str


class _Comparison(Part):
    baseline: Index = 0


class StoredOption(Part):
    """An option of a plan as it was written, predicted or not; see :mod:`smoes_sim.planning.options`."""

    name: str
    topology: str
    tried: Index
    tried_name: str = Field(alias="try")
    scenario: Index
    cost_per_hour: Positive
    cost_source: str
    ttft_s: float | None
    tpot_s: float | None
    tokens_per_s: float | None
    max_rate_per_s: float | None = None
    meets_slo: bool
    meets_share: float
    margin: NotNegative | None
    tightest: str | None
    binds: str | None
    sensitivity: dict[str, float]
    intervals: dict[str, Ends]
    problem: str | None

    def interval(self, key: str) -> Interval | None:
        """The interval of a quantity, such as ``margin``; None where it has none."""
        ends = self.intervals.get(key)
        return None if ends is None else (ends[0], ends[1])


class PredictedOption(StoredOption):
    """An option of a plan with a prediction."""

    ttft_s: Positive
    tokens_per_s: Positive
    margin: NotNegative
    tightest: Literal["ttft_s", "tpot_s", "tokens_per_s", "max_rate_per_s"]
    binds: str
    imbalance: float
    expert_placement: str
    token_placement: str
    not_counted: list[str]


class StoredTry(Part):
    """The cheapest option under one entry of ``try``; an index into the options."""

    tried: str = Field(alias="try")
    cheapest: Index | None
    cost_per_hour: Positive | None


class StoredPlan(Part):
    """The document of a plan as it was written; options that were predicted are :class:`PredictedOption`."""

    description: str = ""
    serving: dict[str, Any] | None = None
    currency: str
    answer: str
    meaning: str
    cheapest: Index | None
    options: list[StoredOption]
    by_try: list[StoredTry]


def checked(model: type[P], value: Any, place: tuple[str | int, ...], path: Path) -> P:
    """A part of a document.

    Args:
        model: What it must be.
        value: The part.
        place: Where it is in the document.
        path: The file.

    Raises:
        ConfigError: If a key is missing or has another type.

    Example:
        A row without ``intervals``: ``out/summary.json: rows.0.intervals: field required. Run the command again ...``.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (*place, *problem["loc"]))
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise ConfigError(f"{path}: {where}: {message}. {REMEDY}") from None


def checked_plan(document: Mapping[str, Any], path: Path) -> StoredPlan:
    """The document of a plan.

    Raises:
        ConfigError: If something is missing or has another type, or an index names no predicted option.
    """
    plan = checked(StoredPlan, document, (), path)
    options = [
        option if option.ttft_s is None else checked(PredictedOption, document["options"][number], ("options", number), path)
        for number, option in enumerate(plan.options)
    ]
    for index in [plan.cheapest, *(entry.cheapest for entry in plan.by_try)]:
        if index is not None and not (index < len(options) and isinstance(options[index], PredictedOption)):
            raise ConfigError(f"{path}: cheapest = {index} is not an option with a prediction. {REMEDY}")
    return plan.model_copy(update={"options": options})


def baseline_of(document: Mapping[str, Any], number: int, path: Path) -> int:
    """Index of the row that others are compared with.

    Raises:
        ConfigError: If it is not one of ``number`` rows.
    """
    baseline = checked(_Comparison, document, (), path).baseline
    if baseline >= number:
        raise ConfigError(f"{path}: baseline = {baseline} is not one of the {number} rows. {REMEDY}")
    return baseline
