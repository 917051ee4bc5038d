"""What a page needs of a ``summary.json``; files that others made or changed are refused before anything is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smoes_sim.errors import ConfigError

Kind = Literal["simulate", "compare", "sweep", "plan"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
Index = Annotated[int, Field(ge=0)]
_REMEDY = "Run the command again with this version."


class _Part(BaseModel):
    """Strict about what is shown; other keys may be there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Predicted(_Part):
    """A row with a prediction."""

    name: str
    ttft_s: Positive
    tpot_s: float | None
    tokens_per_s: Positive
    intervals: dict[str, Ends]
    imbalance: float
    expert_placement: str
    token_placement: str
    not_counted: list[str]


class _Memory(_Part):
    fits: bool
    ranks_needed: int | None
    bytes_needed: float
    bytes_usable: float


class _Row(_Predicted):
    """A row of ``simulate``, ``compare`` or ``sweep``."""

    model: str
    topology: str
    ep_overhead: float
    bytes_remote: float
    memory: _Memory


class _Compared(_Row):
    change: dict[str, float | Ends]


class _Comparison(_Part):
    baseline: Index = 0


class _Point(_Row):
    set: dict[str, Any]
    error: None


class _FailedPoint(_Part):
    name: str
    error: str


class _Offered(_Part):
    """An option of a plan, predicted or not."""

    name: str
    topology: str
    tried: Index
    tried_name: str = Field(alias="try")
    scenario: Index
    cost_per_hour: Positive
    cost_source: str
    meets_slo: bool
    meets_share: float
    margin: NotNegative | None
    tightest: str | None
    binds: str | None
    sensitivity: dict[str, float]
    intervals: dict[str, Ends]
    problem: str | None


class _Option(_Offered, _Predicted):
    margin: NotNegative
    tightest: Literal["ttft_s", "tpot_s", "tokens_per_s", "max_rate_per_s"]
    binds: str


class _ByTry(_Part):
    tried: str = Field(alias="try")
    cheapest: Index | None
    cost_per_hour: Positive | None


class _Plan(_Part):
    currency: str
    answer: str
    meaning: str
    cheapest: Index | None
    options: list[_Offered]
    by_try: list[_ByTry]


_ROWS: dict[Kind, type[_Part]] = {"simulate": _Row, "compare": _Compared, "sweep": _Point, "plan": _Option}


def check_summary(document: dict[str, Any], kind: Kind, path: Path) -> None:
    """Refuse a document that lacks something that its page shows.

    Points of a sweep without a prediction (``ttft_s``) need a name and an error only;
    options of a plan without one are listed all the same.

    Args:
        document: ``summary.json``.
        kind: The command that wrote it.
        path: Where it stands.

    Raises:
        ConfigError: If a key is missing or of another kind, or an index points to no option.

    Example:
        A row without ``intervals``: ``out/summary.json: rows.0.intervals: field required. Run the command again ...``.
    """
    name = "options" if kind == "plan" else "rows"
    if kind == "plan":
        _check(_Plan, document, (), path)
        chosen = [document["cheapest"], *(entry["cheapest"] for entry in document["by_try"])]
        for index in chosen:
            if index is not None and not (index < len(document[name]) and document[name][index].get("ttft_s") is not None):
                raise ConfigError(f"{path}: cheapest = {index} is no option with a prediction. {_REMEDY}")
    if kind == "compare":
        _check(_Comparison, document, (), path)
        if document.get("baseline", 0) >= len(document[name]):
            raise ConfigError(f"{path}: baseline = {document['baseline']} is none of {len(document[name])} rows. {_REMEDY}")
    for number, row in enumerate(document[name]):
        if kind in {"simulate", "compare"} or row.get("ttft_s") is not None:
            _check(_ROWS[kind], row, (name, number), path)
        elif kind == "sweep":
            _check(_FailedPoint, row, (name, number), path)


def _check(model: type[_Part], value: Any, place: tuple[str | int, ...], path: Path) -> None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (*place, *problem["loc"]))
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise ConfigError(f"{path}: {where}: {message}. {_REMEDY}") from None
