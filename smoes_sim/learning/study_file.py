"""The study file: variants, seeds, training, test sets and claims."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import Spec, load, named_document, nearest, write_bytes

_SHIPPED = Path(__file__).parents[1] / "data" / "studies"
_MEASURED_BY = 2
"""Version of the measurement; raise it when the measurement changes, so that finished runs are measured again."""
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Measure = Literal["accuracy", "language_accuracy", "overall", "transmission_rate", "copies_per_token", "msi"]


class ModelSpec(Spec):
    """Sizes of the decoder; the inner size of a dense variant follows from the experts."""

    hidden: Count = 64
    layers: Count = 4
    heads: Count = 4
    experts: Count = 32
    inner: Count = 32
    top_k: Count = 4
    vocabulary: Annotated[int, Field(ge=512)] = 1024

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSpec:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide over heads = {self.heads}. Use a multiple.")
        if self.top_k > self.experts:
            raise ValueError(f"top_k = {self.top_k} is more than experts = {self.experts}.")
        return self


class TrainingSpec(Spec):
    """Training of one run: AdamW, warm-up, then cosine learning rate; every batch has image and text sequences."""

    steps: Count = 500
    images: Count = 7
    questions: Annotated[int, Field(ge=1, description="Questions per image sequence.")] = 3
    texts: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    warm_up: Count = 40
    encoder_steps: Annotated[int, Field(ge=1, description="Training steps of the vision encoder, which is then frozen.")] = (
        400
    )
    checkpoint_every: Count = 50
    device: Literal["cpu", "cuda"] = "cpu"


class SetSpec(Spec):
    """A test set: sequences of one question about an image, and windows of text."""

    questions: Literal["open", "yes_no"] = "open"
    images: Count
    texts: Annotated[int, Field(ge=0)]


class VariantSpec(Spec):
    """Settings of a variant; the defaults are a standard mixture of experts with the standard balance loss.

    With ``trained_as`` nothing is trained: the named variant is measured with another expert placement or skip rule.
    """

    trained_as: str | None = None
    experts: Annotated[Literal["contiguous", "bins"], Field(description="Placement of the experts on ranks.")] = "bins"
    skip: Annotated[
        Literal["modes_like", "naee_like"] | None, Field(description="Rule that skips experts at inference.")
    ] = None
    skip_share: Annotated[
        tuple[Share, Share], Field(strict=False, description="Share of text and of vision slots that modes_like skips.")
    ] = (0.3, 0.6)
    layer: Literal["mixture", "dense_total", "dense_active"] = "mixture"
    selection: Literal["top_k", "hard", "hybrid", "device_limited", "group_balanced"] = "top_k"
    groups: Count = 4
    kept_groups: Count = 1
    balance: Weight = 0.01
    balance_over: Literal["experts", "within_bins", "devices"] = "experts"
    score: Literal["hard", "attention", "gaussian"] | None = None
    bins: Literal["adaptive", "fixed"] = "adaptive"
    divergence: Literal["information", "kl_like"] = "information"
    divergence_weight: Weight = 0.0
    smar_weight: Weight = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> VariantSpec:
        if self.trained_as is not None and (own := self.model_fields_set - {"trained_as", "experts", "skip", "skip_share"}):
            raise ValueError(f"{', '.join(sorted(own))} cannot be set beside trained_as: nothing is trained. Leave it out.")
        if (self.score is None) != (self.divergence_weight == 0):
            raise ValueError("score and divergence_weight go together: give both or none.")
        if self.layer != "mixture" and (self.score or self.smar_weight or self.selection != "top_k"):
            raise ValueError(f"layer = {self.layer} has no router; score, smar_weight and selection do not apply.")
        return self


class ClaimSpec(Spec):
    """A claim that compares the variants ``first`` and ``second``, with differences paired by seed."""

    text: str
    first: str
    second: str
    higher: Annotated[tuple[Measure, ...], Field(strict=False)] = ()
    lower: Annotated[tuple[Measure, ...], Field(strict=False)] = ()
    not_worse: Annotated[
        tuple[Measure, ...], Field(strict=False, description="Measures that may be lower by less than margin.")
    ] = ()
    margin: Annotated[float, Field(gt=0)] = 0.02


class Study(Spec):
    """A study: every variant with every seed, measured on test sets over several numbers of ranks."""

    description: str = ""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (0, 1, 2)
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    num_bins: Count = 8
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    ranks: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(strict=False, min_length=1)] = (2, 4, 8)
    accuracy_questions: Count = 1000
    accuracy_windows: Count = 200
    sets: dict[str, SetSpec]
    variants: dict[str, VariantSpec]
    claims: tuple[ClaimSpec, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        trained = [name for name, variant in self.variants.items() if variant.trained_as is None]
        for name, variant in self.variants.items():
            parent = variant.trained_as
            if parent is not None and parent not in trained:
                raise ValueError(f'variants.{name}.trained_as = "{parent}" is not trained. {nearest(parent, trained)}')
        for claim in self.claims:
            for name in (claim.first, claim.second):
                if name not in self.variants:
                    raise ValueError(f'claims names the variant "{name}". {nearest(name, self.variants)}')
        if "test" not in self.sets:
            raise ValueError('sets has no "test", the mix that claims are judged on. Add it.')
        return self

    @model_validator(mode="after")
    def _experts_divide(self) -> Study:
        for parts in (*self.ranks, self.num_bins):
            if self.model.experts % parts:
                raise ValueError(f"model.experts = {self.model.experts} does not divide by {parts} (ranks, num_bins).")
        return self

    def trained(self) -> list[str]:
        """Names of the trained variants, in order."""
        return [name for name, variant in self.variants.items() if variant.trained_as is None]

    def derived(self, name: str) -> list[str]:
        """Names of a trained variant and of the variants that are measured on its weights."""
        return [name, *(other for other, variant in self.variants.items() if variant.trained_as == name)]

    def has_router(self, name: str) -> bool:
        """Whether a variant has experts."""
        return self.variants[self.variants[name].trained_as or name].layer == "mixture"

    def fingerprint(self, name: str, seed: int) -> str:
        """Hash of all settings that the weights of a run depend on, hexadecimal."""
        training = self.training.model_dump(exclude={"checkpoint_every"})
        learned = self.variants[name].model_dump(exclude={"trained_as", "experts", "skip", "skip_share"})
        return _digest([self.model.model_dump(), training, self.num_bins, self.decay, learned, seed])

    def measured_fingerprint(self, name: str, seed: int) -> str:
        """Hash of all settings that the measured result of a run depends on, hexadecimal."""
        variant = self.variants[name]
        sets = {key: value.model_dump() for key, value in self.sets.items()}
        measured = [_MEASURED_BY, sets, self.ranks, self.accuracy_questions, self.accuracy_windows, variant.model_dump()]
        return _digest([self.fingerprint(variant.trained_as or name, seed), *measured])


def save_study(study: Study, out: Path) -> None:
    """Write ``study.json``: the settings of a finished study, overrides applied."""
    settings = study.model_dump(mode="json", exclude_unset=True)
    write_bytes(out / "study.json", orjson.dumps(settings, option=orjson.OPT_INDENT_2))


def saved_study(out: Path) -> Study:
    """Settings of the finished study in a folder.

    Raises:
        ConfigError: If the folder holds no finished study.
    """
    path = out / "study.json"
    if not path.is_file():
        raise ConfigError(
            f"{path}: does not exist. `smoes-sim train STUDY --out {out}` writes it when the study is finished."
        )
    return load(path, Study)


def _digest(parts: Any) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def study_names() -> list[str]:
    """Names of the shipped studies, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_study(name: str, overrides: Sequence[str] = ()) -> Study:
    """A study, by its shipped name or by the path of its file, with ``a.b=value`` overrides.

    Raises:
        ConfigError: If there is no such study, or a setting breaks a rule.

    Example:
        >>> load_study("tiny-vlm", ["seeds=[0]"]).seeds
        (0,)
    """
    document = named_document(name, _SHIPPED, what="study")
    for assignment in overrides:
        document.override(assignment)
    return document.validate(Study)
