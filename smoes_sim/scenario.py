"""The scenario file: everything that a prediction depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from smoes_sim.compute.spec import ComputeSpec
from smoes_sim.errors import ConfigError
from smoes_sim.models import ModelShape, dense_equal, find_model
from smoes_sim.placement import ExpertRule
from smoes_sim.placement.spec import ExpertFile, ParallelismSpec, PlacementSpec
from smoes_sim.routing.spec import RoutingSpec
from smoes_sim.topology import TopologySpec
from smoes_sim.topology.shipped import topology_document
from smoes_sim.traffic.spec import AttentionSpec, CommunicationSpec
from smoes_sim.workload import WorkloadSpec
from smoes_sim.workload.spec import said_again
from smoes_sim.yaml_files import Document, MappingDocument, NamedSection, Override, Place, Spec, assignments, named_document

__all__ = [
    "CommunicationSpec",
    "ComputeSpec",
    "ExpertFile",
    "ParallelismSpec",
    "PlacementSpec",
    "RoutingSpec",
    "Scenario",
    "load_scenario",
    "scenario_document",
    "scenario_names",
    "with_named_sections",
]

_SHIPPED = Path(__file__).parent / "data" / "scenarios"


_OF_PLACED_EXPERTS = (
    ("placement", "experts"),
    ("placement", "spare"),
    ("placement", "tokens"),
    ("placement", "decode_tokens"),
    ("routing", "rates"),
    ("routing", "msi"),
    ("routing", "popularity"),
)
"""Keys that say nothing where no tokens are routed."""
_OF_EXPERTS = (
    *_OF_PLACED_EXPERTS,
    *(("routing", key) for key in ("policy", "balance", "skip")),
    *(
        ("communication", key)
        for key in ("library", "order", "deduplicate", "dispatch", "combine", "rendezvous", "tolerance")
    ),
)
"""The same in a model that has no experts under any policy."""
_OF_EXCHANGES = tuple(("communication", key) for key in ("send_buffer", "per_message", "per_exchange"))
"""Keys that say nothing where nothing is sent."""
_ACCEPTED = (("routing", "policy", "dense"), ("routing", "rates", "published"))
"""Values that hold for other policies, or say what is so anyway."""


class Scenario(Spec):
    """One deployment: what is simulated, run and compared."""

    description: str = Field(
        "", description="What this scenario is, in words; shown in reports.", examples=["our pod, MMMU"]
    )
    topology: str | TopologySpec = Field(
        description="Name of a shipped topology, path of a topology file, or a topology written in place.",
        examples=["2x8-h100-ndr400", {"kind": "star", "ranks": 4, "link": {"bandwidth": "50 GB/s", "latency": "1 us"}}],
    )
    ranks: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Number of ranks that take part, the first of the topology, on the same network. Not given: all.",
        examples=[8],
    )
    model: str | ModelShape = Field(
        description="Name of a shipped model, or a model written in place.", examples=["olmoe-1b-7b"]
    )
    workload: WorkloadSpec = Field(
        description="Requests that are prefilled and decoded together.", examples=[{"preset": "mmmu", "batch": 8}]
    )
    routing: RoutingSpec = Field(
        RoutingSpec(), description="Which experts each token uses.", examples=[{"policy": "smoes", "rates": "published"}]
    )
    placement: PlacementSpec = Field(
        PlacementSpec(),
        description="Which rank holds each expert, and on which rank each token is.",
        examples=[{"experts": "bins", "tokens": "modality"}],
    )
    communication: CommunicationSpec = Field(
        CommunicationSpec(),
        description="Messages that carry tokens to their experts and results back.",
        examples=[{"library": "two_hop", "deduplicate": "node", "dispatch": "fp8"}],
    )
    attention: AttentionSpec = Field(
        AttentionSpec(),
        description="What travels in attention where the tokens of a sequence are on several ranks.",
        examples=[{"exchange": "queries"}],
    )
    compute: ComputeSpec = Field(
        description="Device of each rank, and which part of its peak is reached.", examples=[{"device": "h100-sxm"}]
    )
    parallelism: ParallelismSpec = Field(
        ParallelismSpec(),
        description="How attention is divided over ranks.",
        examples=[{"tensor": 2, "prefill_chunk": 8192}],
    )
    overlap: Literal["none", "shared_expert", "two_batch", "attention"] = Field(
        "none",
        description="What runs while messages travel: nothing (none), the shared experts during dispatch (shared_expert), "
        "the other half of the batch (two_batch), or the scores that need nothing from other ranks during the exchange of "
        "attention (attention).",
        examples=["two_batch"],
    )
    calibration: str | None = Field(
        None,
        description="Name of a shipped calibration or path of a file; its constants replace those of this scenario. "
        "Not given: nominal rates.",
        examples=["two-orin-baseline"],
    )
    engine: Literal["auto", "fast", "exact"] = Field(
        "auto",
        description="How a forward pass is timed: every event of the network in turn (exact); one fluid solution for each "
        "exchange (fast); or the exact engine up to 1,000 messages an exchange, and above that the fast one where it can "
        "time the pass, corrected by the ratio of the two on a few layers (auto).",
        examples=["exact"],
    )
    sampling: Literal["auto", "none"] = Field(
        "auto",
        description="Whether large models and batches are routed and simulated in part (auto), with the error of the sample "
        "in the interval, or in all layers and all but a few decode steps (none).",
        examples=["none"],
    )
    seed: int = Field(0, ge=0, description="Seed of all random numbers.", examples=[1])

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, model: str | ModelShape) -> str | ModelShape:
        if isinstance(model, str):
            try:
                find_model(model)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("model = ")) from None
        return model

    @model_validator(mode="after")
    def _tokens_come_from_somewhere(self) -> Scenario:
        if self.workload.is_from_trace and self.routing.trace is None:
            raise ValueError("workload.preset = trace, but routing.trace is not given. Give it, or another preset.")
        return self

    @model_validator(mode="after")
    def _tensor_groups_keep_their_sequences(self) -> Scenario:
        rule = self.placement.decode_tokens or self.placement.tokens
        if self.parallelism.tensor > 1 and {rule, self.placement.tokens} != {"data_parallel"}:
            raise ValueError(
                f"placement.tokens = {self.placement.tokens} spreads a sequence over ranks, and so does "
                f"parallelism.tensor = {self.parallelism.tensor}. Write tokens: data_parallel, or tensor: 1."
            )
        return self

    @model_validator(mode="after")
    def _weights_have_formats_of_their_parts(self) -> Scenario:
        weights, model = self.compute.weights, self.model_shape
        if isinstance(weights, str):
            return self
        parts = {
            "experts": model.experts > 0,
            "shared": model.shared_experts > 0,
            "dense": model.num_moe_layers < model.layers,
        }
        for part, exists in parts.items():
            if not exists and (found := getattr(weights, part)) != "bf16":
                raise ValueError(
                    f"compute.weights.{part} = {found}: {model.name} has no such layers or experts. Leave {part} out."
                )
        return self

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Scenario:
        """Refuse keys that say nothing about this model; a value that is the default says nothing anywhere."""
        shape = find_model(self.model) if isinstance(self.model, str) else self.model
        if self.overlap == "shared_expert" and not shape.shared_experts:
            raise ValueError(f"overlap = shared_expert: {shape.name} has no shared experts. Write none or two_batch.")
        if not shape.experts:
            self._refuse(_OF_EXPERTS, f"{shape.name} has no experts")
            if self.parallelism.tensor == 1:
                self._refuse(_OF_EXCHANGES, f"{shape.name} has no experts, and without parallelism.tensor nothing is sent")
        elif self.routing.policy == "dense":
            self._refuse(_OF_PLACED_EXPERTS, "policy dense has no experts")
        communication = self.communication
        if communication.order != "shifted" and not communication.per_message and self.calibration is None:
            raise ValueError(
                f"communication.order = {communication.order}: messages that take no software time are all posted at once. "
                "Give communication.per_message or a calibration, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _decode_tokens_are_decoded(self) -> Scenario:
        placement, workload = self.placement, self.workload
        if placement.decode_tokens is None:
            return self
        if not workload.is_from_trace and (workload.phase == "prefill" or workload.filled().output_tokens == 1):
            raise ValueError(
                f"placement.decode_tokens = {placement.decode_tokens}: nothing is decoded. Leave it out, or ask "
                "for decode steps by workload.phase and output_tokens of 2 or more."
            )
        if workload.phase == "decode" and placement.tokens != "data_parallel":
            raise ValueError(
                f"placement.tokens = {placement.tokens} beside decode_tokens: workload.phase = decode has no tokens but "
                "decoded ones. Leave out one."
            )
        return self

    def _refuse(self, keys: Sequence[tuple[str, str]], reason: str) -> None:
        for section, key in keys:
            part = getattr(self, section)
            value, default = getattr(part, key), type(part).model_fields[key].default
            if value != default and (section, key, value) not in _ACCEPTED:
                raise ValueError(f"{section}.{key} = {value}: {reason}. Leave it out.")

    @model_validator(mode="after")
    def _attention_has_something_to_exchange(self) -> Scenario:
        rules = {self.placement.tokens, self.placement.decode_tokens or self.placement.tokens}
        keys = []
        if self.attention.exchange != "auto":
            keys.append(f"attention.exchange = {self.attention.exchange}")
        if self.overlap == "attention":
            keys.append("overlap = attention")
        if keys and (rules <= {"data_parallel"} or rules <= {"single"}):
            raise ValueError(
                f"{' and '.join(keys)}: under placement.tokens = {self.placement.tokens} every sequence is on one rank and "
                "nothing is exchanged. Leave it out, or write another placement.tokens."
            )
        if keys and self.workload.phase == "decode":
            raise ValueError(
                f"{' and '.join(keys)}: workload.phase = decode has no prefill that leaves its cache on several ranks; each "
                "sequence is decoded where its cache is. Leave it out."
            )
        return self

    @classmethod
    def load(cls, name: str | Path, *overrides: Override, **settings: object) -> Scenario:
        """A shipped scenario, or that of a file, with overrides as for ``simulate``.

        Raises:
            ConfigError: If there is none, or it breaks a rule.

        Example:
            >>> Scenario.load("olmoe-two-orin", "workload.batch=4", ranks=1).workload.batch
            4
        """
        return load_scenario(str(name), assignments(overrides, settings))

    @property
    def model_shape(self) -> ModelShape:
        """The model's shape, or that of its dense counterpart under policy ``dense``."""
        shape = find_model(self.model) if isinstance(self.model, str) else self.model
        return dense_equal(shape, of="total") if self.routing.policy == "dense" and shape.experts else shape

    @property
    def expert_rule(self) -> ExpertRule | ExpertFile:
        """The rule or file that places the experts, the default of the policy filled in."""
        default: ExpertRule = "bins" if self.routing.policy in {"smoes", "hard", "hybrid"} else "contiguous"
        return self.placement.experts or default


def scenario_names() -> list[str]:
    """Names of the shipped scenarios, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_scenario(name: str, overrides: Sequence[str] = ()) -> Scenario:
    """The shipped scenario or file ``name``, with ``a.b=value`` overrides.

    Raises:
        ConfigError: One line with the place, the rule and what to do.
    """
    return scenario_document(name, overrides).validate(Scenario)


def scenario_document(name: str, overrides: Sequence[str] = ()) -> Document:
    """The document of a shipped scenario or a file, with overrides, not validated yet."""
    document = with_named_sections(named_document(name, _SHIPPED, what="scenario"))
    for assignment in overrides:
        document.override(assignment)
    return document


def with_named_sections(document: Document) -> Document:
    """The document of a scenario, in which overrides may go below the name of a topology or a model.

    ``topology.link.bandwidth=25 Gb/s`` loads the named topology in its place and changes one number of it.
    """
    document.sections = _NAMED_SECTIONS
    return document


def _topology_document(name: str) -> Document:
    document = topology_document(name)
    document.data.setdefault("name", Path(name).stem)
    return document


def _note_in_workload(workload: dict[str, Any], key: str, override: str, earlier: Collection[Place]) -> None:
    """Remove what the file says about the same thing under another key; what an earlier override says stays."""
    for other in said_again(key, override.partition("=")[2].strip()):
        if ("workload", other) not in earlier:
            workload.pop(other, None)


def _workload_document(name: str) -> Document:
    raise ConfigError(f'workload = "{name}" is not a mapping. Write for example workload={{preset: {name}}}.')


def _note_in_topology(topology: dict[str, Any], key: str, override: str, _: Collection[Place]) -> None:
    """Replace the source of overridden numbers by the override, and add it to the name."""
    if "name" in topology:  # loaded by its name, not written in place
        topology["name"] += f" with {override.removeprefix('topology.')}"
    sources = topology.get("sources")
    if not isinstance(sources, dict) or key.partition(".")[0] == "sources":
        return
    for number in sources:
        if f"{number}.".startswith(f"{key}."):
            sources[number] = f"override {override}"


def _note_in_model(model: dict[str, Any], key: str, override: str, _: Collection[Place]) -> None:
    """Add the override to the source; published numbers of parameters no longer apply."""
    if key in {"source", "image_source", "name", "published_total", "published_active"}:
        return
    for published in ("published_total", "published_active"):
        model.pop(published, None)
    model["source"] = f"{model.get('source', '')}; override {override}".removeprefix("; ")


def _model_document(name: str) -> Document:
    return MappingDocument(find_model(name).model_dump(mode="json", by_alias=True, exclude_none=True), name=f"model {name}")


_NAMED_SECTIONS: Mapping[Place, NamedSection] = {
    ("topology",): NamedSection(load=_topology_document, note_change=_note_in_topology),
    ("model",): NamedSection(load=_model_document, note_change=_note_in_model),
    ("workload",): NamedSection(load=_workload_document, note_change=_note_in_workload),
}
