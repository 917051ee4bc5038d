"""The section ``routing`` of a scenario, as a person writes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from smoes_sim.routing.skipping import SkipShares
from smoes_sim.routing.synthetic import GROUPED, KEPT_GROUPS, NUM_GROUPS, Policy
from smoes_sim.routing.targets import Rates
from smoes_sim.yaml_files import Spec


class RoutingSpec(Spec):
    """Which experts each token uses: a captured trace, or a synthetic router of a policy.

    ``rates`` and ``msi`` are targets of the synthetic router. ``rates: published`` takes the published rates and index of
    the policy; without either target the published index alone is used. ``device_limited`` and ``group_balanced`` choose
    by groups of neighbouring experts from the scores of the standard router; ``hard`` and ``hybrid`` follow from their
    split and have no targets. ``dense`` has no router: the model is replaced by its dense counterpart of equal total
    parameters. ``skip`` leaves slots out of any routing, also that of a trace.
    """

    policy: Policy | Literal["dense"] = Field(
        "standard",
        description="Router: load-balanced (standard), modality-aware (smoes, hard, hybrid), limited to groups of experts "
        "(device_limited, group_balanced), or none (dense: a dense model of equal total parameters; what communication says "
        "of experts is then for the other policies of a comparison). With a trace: the router it was captured from, which "
        "decides where experts are if placement.experts does not say.",
        examples=["smoes"],
    )
    score: Literal["attention"] | None = Field(
        None,
        description="Modality score that SMoES was trained with, a note that changes no number; only with policy smoes.",
        examples=["attention"],
    )
    rates: Literal["published"] | Rates | None = Field(
        None,
        description="Transmission rates between two ranks that the synthetic router must show; published: those of the "
        "policy's paper, if it has any. Not given: no such target.",
        examples=["published", {"prefill_vision": 0.33, "prefill": 0.45, "decode": 0.5}],
    )
    msi: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Modality specialisation index (mean over layers) that the synthetic router must show. Not given: "
        "the published one of the policy, or no such target if rates are given as numbers.",
        examples=[0.21],
    )
    popularity: float = Field(
        0.1,
        ge=0,
        description="Standard deviation of the popularity of experts in a synthetic router, in nats; 0: all equal.",
        examples=[0.3],
    )
    balance: Literal["drawn", "even"] = Field(
        "drawn",
        description="How evenly a synthetic router uses experts: as its scores fall (drawn), or each expert of a layer for "
        "the same number of tokens of every prefill and decode step, give or take one where it does not divide (even).",
        examples=["even"],
    )
    groups: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Number of groups of neighbouring experts, for policy device_limited and group_balanced. "
        f"Not given: {NUM_GROUPS}.",
        examples=[8],
    )
    keep: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=f"Number of groups that a token may use under policy device_limited. Not given: {KEPT_GROUPS}.",
        examples=[3],
    )
    skip: SkipShares | None = Field(
        None,
        description="Share of routed slots that are skipped, those of lowest relative weight first. Not given: none.",
        examples=[{"vision": 0.5, "text": 0.1}],
    )
    trace: str | None = Field(
        None,
        description="Path of a routing trace (.npz), which replaces the synthetic router. Not given: synthetic routing.",
        examples=["trace.npz"],
    )

    @model_validator(mode="after")
    def _dense_has_no_slots(self) -> RoutingSpec:
        if self.policy == "dense" and self.skip is not None:
            raise ValueError("skip: policy dense has no routed slots to skip. Leave it out.")
        return self

    @model_validator(mode="after")
    def _groups_are_used(self) -> RoutingSpec:
        if self.groups is not None and self.policy not in GROUPED:
            raise ValueError(f"groups = {self.groups} belong to {' and '.join(GROUPED)}, not {self.policy}. Leave them out.")
        if self.keep is not None and self.policy != "device_limited":
            raise ValueError(f"keep = {self.keep} belongs to policy device_limited, not {self.policy}. Leave it out.")
        groups, kept = self.groups or NUM_GROUPS, self.keep or KEPT_GROUPS
        if self.policy == "device_limited" and kept > groups:
            raise ValueError(f"keep = {kept} is more than groups = {groups}. Give keep as 1 to {groups}.")
        return self

    @model_validator(mode="after")
    def _score_is_smoes(self) -> RoutingSpec:
        if self.score is not None and self.policy != "smoes":
            raise ValueError(f'score = "{self.score}" belongs to policy smoes, not {self.policy}. Leave it out.')
        return self

    @model_validator(mode="after")
    def _even_is_all_that_is_said(self) -> RoutingSpec:
        if self.balance != "even":
            return self
        if self.policy != "standard":
            raise ValueError(f"balance = even uses all experts alike, and policy {self.policy} does not. Leave out one.")
        for key in ("rates", "msi", "skip", "trace"):
            if (value := getattr(self, key)) is not None:
                raise ValueError(f"balance = even leaves nothing to {key} = {value}. Leave out one.")
        if self.popularity != type(self).model_fields["popularity"].default:
            raise ValueError(
                f"balance = even makes all experts equally popular, not popularity = {self.popularity}. Leave out one."
            )
        return self

    @model_validator(mode="after")
    def _targets_are_of_a_fitted_router(self) -> RoutingSpec:
        why = f"policy {self.policy} follows from its split" if self.policy in {"hard", "hybrid"} else None
        if self.trace is not None:
            why = "a trace replaces the synthetic router"
            self._refuse_with_a_trace(why)
        if why is None:
            return self
        if isinstance(self.rates, Rates):
            raise ValueError(f"rates = {self.rates}: {why}. Leave it out.")
        if self.msi is not None:
            raise ValueError(f"msi = {self.msi}: {why}. Leave it out.")
        return self

    def _refuse_with_a_trace(self, why: str) -> None:
        for key in ("popularity", "groups", "keep"):
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                raise ValueError(f"{key} = {value}: {why}. Leave it out.")

    @property
    def fitted(self) -> RoutingSpec:
        """The fields that decide the parameters of the router, without groups and skipping."""
        policy = "standard" if self.policy in GROUPED else self.policy
        return self.model_copy(update={"policy": policy, "groups": None, "keep": None, "skip": None})

    @property
    def name(self) -> str:
        """The policy, with "+skip" if slots are skipped."""
        return self.policy if self.skip is None else f"{self.policy}+skip"
