"""The section ``compute`` of a scenario, as a person writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from smoes_sim.compute.devices import Range, Share, find_device
from smoes_sim.compute.formats import CacheFormat, WeightFormat, WeightFormats
from smoes_sim.errors import ConfigError
from smoes_sim.units import Duration
from smoes_sim.yaml_files import Spec


class ComputeSpec(Spec):
    """The device and which part of its peak is reached; the defaults are assumptions that a calibration replaces."""

    device: str = Field(
        description="Name of a shipped device; every rank drives one (`smoes-sim list devices`). Other names in use are "
        "understood (H200, gb200-nvl72); one that means several devices is refused (h100).",
        examples=["h100-sxm"],
    )
    flops_efficiency: Share | Range | None = Field(
        None,
        description="Share of the dense peak that is reached where arithmetic limits, as a number or as low, value, high. "
        "Not given: the device's own range.",
        examples=[0.6, {"low": 0.3, "value": 0.5, "high": 0.7}],
    )
    memory_efficiency: Share | Range | None = Field(
        None,
        description="Share of the memory bandwidth that is reached where memory limits, as a number or as low, value, "
        "high. Not given: the device's own range.",
        examples=[0.8, {"low": 0.5, "value": 0.8, "high": 0.9}],
    )
    weights: WeightFormat | WeightFormats = Field(
        "bf16",
        description="Format of projections and experts, in memory and in products, or one by part (experts, attention, "
        "shared, dense, embeddings; a part that is not named is bf16). Scales are counted. The router is bf16.",
        examples=["fp8", {"experts": "mxfp4"}],
    )
    cache: CacheFormat = Field("bf16", description="Format of the KV cache, scales included.", examples=["fp8"])
    memory_share: Share = Field(
        0.9, description="Share of the device's memory that weights, cache and buffers may use.", examples=[0.85]
    )
    launch: Duration = Field(5e-6, description="Fixed time per kernel launch.", examples=["3 us"])
    per_layer: Duration = Field(
        0.0, description="Host time per layer that the roofline does not include.", examples=["50 us"]
    )
    per_prefill: Duration | None = Field(
        None,
        description="Time of a prefill outside the layers. Not given: that of the vision tower by roofline.",
        examples=["30 ms"],
    )
    shared_cores: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Number of cores on which all ranks compute in turns, as in a lab on one machine. Not given: each rank "
        "on its own device.",
        examples=[2],
    )

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        try:
            return find_device(name).name
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("device = ")) from None
