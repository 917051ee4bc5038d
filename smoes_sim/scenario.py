"""The scenario file: everything that a prediction depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from smoes_sim.compute import Precision, Range, Share, find_device
from smoes_sim.errors import ConfigError
from smoes_sim.models import ModelShape, dense_equal, find_model
from smoes_sim.network import Order, Schedule
from smoes_sim.placement import ExpertRule, TokenRule
from smoes_sim.routing import GROUPED, KEPT_GROUPS, NUM_GROUPS, Policy, Rates, SkipShares
from smoes_sim.topology import TopologySpec
from smoes_sim.topology.shipped import topology_document
from smoes_sim.traffic.copies import Deduplicate, ElementType
from smoes_sim.units import Duration, Size
from smoes_sim.workload import WorkloadSpec
from smoes_sim.yaml_files import Document, MappingDocument, NamedSection, Place, Spec, named_document

_SHIPPED = Path(__file__).parent / "data" / "scenarios"


def _known(name: str, find: Callable[[str], object], prefix: str) -> str:
    """The name if ``find`` knows it; its complaint without the key that the file's place already names."""
    try:
        find(name)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix(prefix)) from None
    return name


class RoutingSpec(Spec):
    """Where the routing comes from: a trace file, or a synthetic router of a policy.

    ``rates`` and ``msi`` are what the synthetic router must show; ``rates: published`` takes the published rates and index
    of the policy, and with neither given the published index alone. ``device_limited`` and ``group_balanced`` choose by
    groups of neighbouring experts from the scores of the standard router; ``hard`` and ``hybrid`` are given by their split.
    ``dense`` has no router: the model is replaced by its dense counterpart of equal total parameters. ``skip`` leaves slots
    out of any routing, a trace's too.
    """

    policy: Policy | Literal["dense"] = "standard"
    score: Literal["attention"] | None = Field(None, description="Modality score that SMoES was trained with.")
    rates: Literal["published"] | Rates | None = None
    msi: Annotated[float, Field(ge=0, le=1)] | None = None
    popularity: Annotated[float, Field(ge=0, description="Spread of expert popularity, in nats.")] = 0.1
    groups: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"Groups of experts of device_limited and group_balanced; left out: {NUM_GROUPS}."
    )
    keep: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"Groups in which a token of device_limited may choose; left out: {KEPT_GROUPS}."
    )
    skip: SkipShares | None = Field(None, description="Shares of slots that are left out, lowest relative weight first.")
    trace: str | None = Field(None, description="A trace file; replaces the synthetic router.")

    @model_validator(mode="after")
    def _dense_has_no_slots(self) -> RoutingSpec:
        if self.policy == "dense" and self.skip is not None:
            raise ValueError("skip: policy dense routes nothing that could be skipped. Leave it out.")
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

    @property
    def fitted(self) -> RoutingSpec:
        """What decides the router's parameters: groups and skipping do not."""
        policy = "standard" if self.policy in GROUPED else self.policy
        return self.model_copy(update={"policy": policy, "groups": None, "keep": None, "skip": None})

    @property
    def name(self) -> str:
        """The policy, and whether slots are skipped. Example: standard+skip."""
        return self.policy if self.skip is None else f"{self.policy}+skip"


class ExpertFile(Spec):
    """A placement file with a ``physical_to_logical_map``, as EPLB and SGLang use it."""

    file: str

    def __str__(self) -> str:
        return f"file {self.file}"


class PlacementSpec(Spec):
    """Where experts and tokens live; experts left out: ``bins`` for smoes, hard and hybrid, else ``contiguous``."""

    experts: ExpertRule | ExpertFile | None = None
    spare: Annotated[int, Field(ge=0, description="Slots of each rank for replicas, beside its share of the experts.")] = 0
    tokens: TokenRule = "data_parallel"


_SCHEDULES_OF_LIBRARIES = {
    "deepep": "two_hop (its normal kernels, prefill) or low_latency (its low-latency kernels, decode)",
    "deepepnormal": "two_hop",
    "deepeplowlatency": "low_latency",
    "nccl": "direct",
    "rccl": "direct",
    "gloo": "pairwise",
    "mpi": "pairwise",
}
"""Names of libraries, without dashes and underscores -> the schedule that describes them."""


class CommunicationSpec(Spec):
    """How tokens travel."""

    library: Schedule = "direct"
    order: Order = "shifted"
    deduplicate: Deduplicate = "rank"
    dispatch: ElementType = "bf16"
    combine: ElementType = "bf16"
    rendezvous: bool = Field(
        False, description="Messages wait until their receiver has entered the exchange (gloo, NCCL), not in a buffer there."
    )
    send_buffer: Size = Field(
        0.0,
        description="Last bytes of a message that count as sent once the sender's kernel has them (TCP).",
    )
    tolerance: Annotated[float, Field(ge=0, le=0.1, description="Relative error aimed at in large exchanges.")] = 1e-3
    per_message: Duration = Field(0.0, description="Sender's time per message, one after the other.")
    per_exchange: Duration = Field(0.0, description="A rank's time to enter an exchange, whatever it sends.")

    @field_validator("library", mode="before")
    @classmethod
    def _library_is_a_schedule(cls, library: Any) -> Any:
        wanted = _SCHEDULES_OF_LIBRARIES.get(str(library).lower().replace("-", "").replace("_", ""))
        if wanted is not None:
            raise ValueError(f'"{library}" is a library, not a schedule of messages. Write {wanted}.')
        return library

    @model_validator(mode="after")
    def _library_fits_deduplication(self) -> CommunicationSpec:
        if self.library == "low_latency" and self.deduplicate != "none":
            raise ValueError(
                f"library = low_latency sends one message per routed token and cannot deduplicate by {self.deduplicate}. "
                "Write deduplicate: none."
            )
        if self.library == "hierarchical" and self.deduplicate == "node":
            raise ValueError("library = hierarchical forwards in its own way. Write deduplicate: none or rank.")
        return self


class ComputeSpec(Spec):
    """The device and what of it is reached; the defaults are assumptions, a calibration replaces them.

    An efficiency is a share of the peak, or ``{low, value, high}``; left out it is the device's own range.
    """

    device: str
    flops_efficiency: Share | Range | None = None
    memory_efficiency: Share | Range | None = None
    weights: Precision = Field("bf16", description="Format of projections and experts, in memory and in products.")
    cache: Precision = Field("bf16", description="Format of the KV cache.")
    memory_share: Share = Field(0.9, description="Part of the device's memory for weights, cache and buffers.")
    launch: Duration = Field(5e-6, description="Fixed time per kernel.")
    per_layer: Duration = Field(0.0, description="Host time per layer that the roofline does not see.")
    per_prefill: Duration | None = Field(
        None, description="Time of a prefill outside the layers; left out: the vision tower by roofline."
    )
    shared_cores: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="All ranks compute in turns on so many cores, as in a lab on one machine; left out: each on its own.",
    )

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        return _known(name, find_device, "device = ")


class ParallelismSpec(Spec):
    """How attention is divided; experts are spread over all ranks (or EP groups of them) in any case."""

    tensor: Annotated[int, Field(ge=1)] = Field(
        1,
        description="Neighbouring ranks that share the attention of their sequences, and a dense model's feed-forward "
        "layers; 1: each rank has its own.",
    )
    prefill_chunk: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Prompt tokens that such a group takes in one step; left out: all of the batch at once."
    )


class Scenario(Spec):
    """One deployment: what is simulated, run and compared."""

    description: str = ""
    topology: str | TopologySpec
    ranks: Annotated[int, Field(ge=1)] | None = Field(
        None, description="The first so many ranks of the topology take part, on the same network; left out: all."
    )
    model: str | ModelShape
    workload: WorkloadSpec
    routing: RoutingSpec = RoutingSpec()
    placement: PlacementSpec = PlacementSpec()
    communication: CommunicationSpec = CommunicationSpec()
    compute: ComputeSpec
    parallelism: ParallelismSpec = ParallelismSpec()
    overlap: Literal["none", "shared_expert", "two_batch"] = "none"
    calibration: str | None = Field(None, description="A shipped calibration or a file; its constants replace those here.")
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, model: str | ModelShape) -> str | ModelShape:
        return _known(model, find_model, "model = ") if isinstance(model, str) else model

    @model_validator(mode="after")
    def _tokens_come_from_somewhere(self) -> Scenario:
        if self.workload.is_from_trace and self.routing.trace is None:
            raise ValueError("workload.preset = trace, but there is no trace. Give routing.trace, or another preset.")
        return self

    @model_validator(mode="after")
    def _tensor_groups_keep_their_sequences(self) -> Scenario:
        if self.parallelism.tensor > 1 and self.placement.tokens != "data_parallel":
            raise ValueError(
                f"placement.tokens = {self.placement.tokens} spreads a sequence over ranks, and so does "
                f"parallelism.tensor = {self.parallelism.tensor}. Write tokens: data_parallel, or tensor: 1."
            )
        return self

    @property
    def model_shape(self) -> ModelShape:
        """The model, shipped or written in place; its dense counterpart under policy ``dense``."""
        shape = find_model(self.model) if isinstance(self.model, str) else self.model
        return dense_equal(shape, of="total") if self.routing.policy == "dense" and shape.experts else shape

    @property
    def expert_rule(self) -> ExpertRule | ExpertFile:
        """How experts are placed."""
        default: ExpertRule = "bins" if self.routing.policy in {"smoes", "hard", "hybrid"} else "contiguous"
        return self.placement.experts or default


def scenario_names() -> list[str]:
    """Names of the shipped scenarios, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_scenario(name: str, overrides: Sequence[str] = ()) -> Scenario:
    """A shipped scenario or a file, with ``a.b=value`` overrides.

    Raises:
        ConfigError: One line with the place, the rule and what to do.
    """
    return scenario_document(name, overrides).validate(Scenario)


def scenario_document(name: str, overrides: Sequence[str] = ()) -> Document:
    """The file of a scenario with overrides, not validated yet."""
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


def _note_in_topology(topology: dict[str, Any], key: str, override: str) -> None:
    """Replace the source of overridden numbers by the override."""
    sources = topology.get("sources")
    if not isinstance(sources, dict) or key.partition(".")[0] == "sources":
        return
    for number in sources:
        if f"{number}.".startswith(f"{key}."):
            sources[number] = f"override {override}"


def _note_in_model(model: dict[str, Any], key: str, override: str) -> None:
    """Add the override to the source; published numbers of parameters no longer apply."""
    if key in {"source", "image_source", "name", "published_total", "published_active"}:
        return
    for published in ("published_total", "published_active"):
        model.pop(published, None)
    model["source"] = f"{model.get('source', '')}; override {override}".removeprefix("; ")


def _model_document(name: str) -> Document:
    return MappingDocument(find_model(name).model_dump(mode="json", by_alias=True, exclude_none=True), name=f"model {name}")


_NAMED_SECTIONS: Mapping[Place, NamedSection] = {
    ("topology",): NamedSection(load=topology_document, note_change=_note_in_topology),
    ("model",): NamedSection(load=_model_document, note_change=_note_in_model),
}
