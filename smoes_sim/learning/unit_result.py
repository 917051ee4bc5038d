"""What was measured on one trained variant and seed, and its file ``runs/VARIANT-SEED/result.json``. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smoes_sim.errors import ConfigError
from smoes_sim.learning.study_file import Study
from smoes_sim.placement import TokenRule
from smoes_sim.yaml_files import write_bytes

ExpertOrder = Literal["contiguous", "bins"]
"""How a study places experts: in the model's order, or sorted by the text share of their training counts."""


class _Stored(BaseModel):
    """Part of a result file; an unknown or a missing key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlacementTraffic(_Stored):
    """Traffic of one test set under one placement of experts and tokens.

    Copies are deduplicated by rank and leave the token's home rank; bytes count dispatch and combine in bf16.

    Attributes:
        ranks: Number of ranks, R.
        experts: Placement of the experts.
        tokens: Placement of the tokens.
        transmission_rate: Share of (token, layer) pairs that need another rank.
        transmission_rate_vision: The same for vision tokens; None without any.
        transmission_rate_text: The same for text tokens; None without any.
        copies_per_token: Copies sent to other ranks, per token and layer.
        bytes_remote: Bytes between ranks, all layers.
        imbalance: Routed tokens of the busiest rank over the mean.
    """

    ranks: int
    experts: ExpertOrder
    tokens: TokenRule
    transmission_rate: float | None
    transmission_rate_vision: float | None
    transmission_rate_text: float | None
    copies_per_token: float
    bytes_remote: int
    imbalance: float


class SetResult(_Stored):
    """A test set on a dense model.

    Attributes:
        accuracy: Share of its questions answered right; None without questions.
    """

    accuracy: float | None


class RoutedSetResult(SetResult):
    """A test set on a model with experts.

    Attributes:
        tokens: Number of tokens, T.
        vision_share: Share of vision tokens.
        experts_per_token: Mean number of experts that a token uses.
        msi: Modality specialisation index, mean over layers.
        msi_per_layer: The index of each layer, L values.
        expert_imbalance: Routed tokens of the busiest expert over the mean, mean over layers.
        text_share: Text share of what each expert receives, L rows of E; None for an expert without tokens.
        placements: Traffic for every number of ranks, placement of experts and placement of tokens.
    """

    tokens: int
    vision_share: float
    experts_per_token: float
    msi: float
    msi_per_layer: tuple[float, ...]
    expert_imbalance: float
    text_share: tuple[tuple[float | None, ...], ...]
    placements: tuple[PlacementTraffic, ...]

    def traffic(self, *, experts: str, tokens: str, ranks: int) -> PlacementTraffic:
        """Traffic under one placement.

        Raises:
            KeyError: If it was not measured.
        """
        for row in self.placements:
            if (row.ranks, row.experts, row.tokens) == (ranks, experts, tokens):
                return row
        raise KeyError((ranks, experts, tokens))


class UnitResult(_Stored):
    """Everything measured on one variant and seed.

    Attributes:
        fingerprint: Settings that it was measured under, see :meth:`Study.measured_fingerprint`.
        seed: Seed of weights and batches.
        parameters: Number of parameters of the model.
        train_cpu_seconds: CPU seconds of the training; None if they are not known.
        accuracy: Share of held-out questions answered right.
        language_accuracy: Share of held-out text tokens predicted right.
        bits_per_byte: Cross entropy of held-out text per UTF-8 byte.
        sets: Results by test set.
    """

    fingerprint: str
    seed: int
    parameters: int
    train_cpu_seconds: float | None
    accuracy: float | None
    language_accuracy: float | None
    bits_per_byte: float | None
    sets: dict[str, Annotated[RoutedSetResult | SetResult, Field(union_mode="left_to_right")]]

    def routed(self, key: str = "test") -> RoutedSetResult:
        """The result of a test set on a model with experts.

        Raises:
            ConfigError: If the model is dense, so that it routes nothing.
        """
        found = self.sets[key]
        if not isinstance(found, RoutedSetResult):
            raise ConfigError(
                f"seed {self.seed}, set {key}: the model is dense and routes nothing. Choose one with experts."
            )
        return found

    @property
    def has_router(self) -> bool:
        """Whether the model has experts to choose from."""
        return isinstance(self.sets["test"], RoutedSetResult)


Results = dict[str, dict[int, UnitResult]]
"""Results by variant and seed."""


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Folder of the files of a variant and seed."""
    return out / "runs" / f"{name}-{seed}"


def write_result(result: UnitResult, folder: Path) -> None:
    """Write ``result.json``, in one step."""
    write_bytes(folder / "result.json", orjson.dumps(result.model_dump(), option=orjson.OPT_INDENT_2))


def read_result(out: Path, study: Study, name: str, seed: int) -> UnitResult | None:
    """The result of a variant and seed; None if it is not finished or was measured under other settings.

    Raises:
        ConfigError: If the file cannot be read or is damaged.
    """
    path = folder_of(out, name, seed) / "result.json"
    content = _content(path)
    if content is None or content.get("fingerprint") != study.measured_fingerprint(name, seed):
        return None
    try:
        return UnitResult.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {place}: {problem['msg'].lower()}. Delete the file; it is measured again.") from None


def known_training_seconds(folder: Path) -> float | None:
    """CPU seconds of a finished training, from a result that was measured under other settings; None if unknown."""
    content = _content(folder / "result.json")
    return None if content is None else content.get("train_cpu_seconds")


def _content(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None without a file."""
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Delete the file; it is measured again.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a JSON object. Delete the file; it is measured again.")
    return content
