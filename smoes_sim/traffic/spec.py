"""The sections ``communication`` and ``attention`` of a scenario, as a person writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from smoes_sim.network import Order, Schedule
from smoes_sim.traffic.copies import Deduplicate, ElementType
from smoes_sim.units import Duration, Size
from smoes_sim.yaml_files import Spec

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


class AttentionSpec(Spec):
    """Attention over sequences that live on several ranks."""

    exchange: Literal["auto", "queries", "kv", "moved_cache"] = Field(
        "auto",
        description="What travels where a token attends to tokens on other ranks, in every layer: its query, with a partial "
        "result back, and the cache stays where it was made (queries); keys and values in every step (kv); keys and values "
        "in prefill, which are kept, and what is still missing once before decode (moved_cache); or what takes the least "
        "time, prefill and decode apart (auto).",
        examples=["queries"],
    )


class CommunicationSpec(Spec):
    """How tokens are sent to their experts and back."""

    library: Schedule = Field(
        "direct",
        description="Schedule of messages: all pairs at once (direct), rounds (pairwise), one copy per node and then inside "
        "the node (two_hop), one message per routed token (low_latency), gather, exchange, scatter (hierarchical), or as "
        "NCCL's all_to_all_single (all_to_all_single).",
        examples=["two_hop"],
    )
    order: Order = Field(
        "shifted",
        description="Order in which a rank posts its messages: by rank number (naive), beginning behind its own (shifted), "
        "own rail first (rail), or random.",
        examples=["rail"],
    )
    deduplicate: Deduplicate = Field(
        "rank",
        description="A token is sent once per expert (none), once per destination rank (rank) or once per destination node "
        "(node).",
        examples=["node"],
    )
    dispatch: ElementType = Field(
        "bf16", description="Element type of dispatched tokens; fp8 includes its scales.", examples=["fp8"]
    )
    combine: ElementType = Field("bf16", description="Element type of the results sent back.", examples=["bf16"])
    rendezvous: bool = Field(
        False,
        description="Whether a message waits until its receiver has entered the exchange (gloo, NCCL), instead of in a "
        "buffer there.",
        examples=[True],
    )
    send_buffer: Size = Field(
        0.0,
        description="Kernel buffer of the sender (TCP): the last bytes of a message count as sent once they are in it.",
        examples=["4 MiB"],
    )
    tolerance: float = Field(
        1e-3, ge=0, le=0.1, description="Relative error that is accepted in large exchanges; 0: exact.", examples=[0.01]
    )
    per_message: Duration = Field(
        0.0, description="Software time of the sender per message, one after the other.", examples=["3 us"]
    )
    per_exchange: Duration = Field(
        0.0, description="Software time of a rank to enter an exchange, whatever it sends.", examples=["20 us"]
    )

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

    @model_validator(mode="after")
    def _library_has_an_order_and_waits(self) -> CommunicationSpec:
        if self.order != "shifted" and self.library in {"pairwise", "all_to_all_single"}:
            raise ValueError(f"order = {self.order}: library = {self.library} sends in rounds of its own. Leave it out.")
        if self.rendezvous and self.library == "low_latency":
            raise ValueError(
                "rendezvous = true: library = low_latency writes into reserved buffers and never waits. Leave it out."
            )
        return self
