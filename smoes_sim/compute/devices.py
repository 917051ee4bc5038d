"""What one accelerator can do at best: dense peaks, memory bandwidth, memory size, each with its source."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Self

from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.units import Bandwidth, Flops, Size
from smoes_sim.yaml_files import Document, Spec, nearest

Share = Annotated[float, Field(gt=0, le=1)]


class Range(Spec):
    """A share of a peak that is not known exactly: the middle that is used, and how low and how high it may be."""

    low: Share = Field(description="Lowest value, above 0.", examples=[0.3])
    value: Share = Field(description="Value that is used where one number is needed.", examples=[0.5])
    high: Share = Field(description="Highest value, up to 1.", examples=[0.7])

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low = {self.low}, value = {self.value}, high = {self.high}: must rise. Sort them.")
        return self

    def quantile(self, part: float) -> float:
        """From ``low`` (0) over ``value`` (0.5) to ``high`` (1), straight in between."""
        near, far = (self.low, self.value) if part < 0.5 else (self.value, self.high)
        return near + (far - near) * (2 * part - (0 if part < 0.5 else 1))


FLOPS_EFFICIENCY = Range(low=0.3, value=0.5, high=0.7)
"""Share of the dense peak that matrix products reach where arithmetic limits them, for every device without its own.

Kernels of DeepSeek-V3's shapes on H800 (1978.9 TFLOPS in FP8, 989.4 in BF16): dense products of 4096 rows 590 to 1358
TFLOPS, grouped ones 815 to 1297 (github.com/deepseek-ai/DeepGEMM, README of 2025-02-25): 0.30 to 0.69. MLA decoding 660
(README of FlashMLA): 0.67. Attention on B200 1460 of 2250 TFLOPS (there too): 0.65. Other devices: assumed alike. The
middle is an assumption. Measured kernel by kernel; nothing was fitted to times of whole steps.
"""
MEMORY_EFFICIENCY = Range(low=0.5, value=0.8, high=0.9)
"""Share of the memory bandwidth that is reached where memory limits, for every device without its own.

H800 (3.35 TB/s), same sources: products of 64 rows 1688 to 2668 GB/s, 0.50 to 0.80; MLA decoding 3000 GB/s, 0.90.
"""


class Device(Spec):
    """One accelerator.

    ``peak_bf16`` and ``peak_fp8`` are dense rates in operations per second (a multiply-add is two), ``None`` where the
    format is not built in; ``memory_bandwidth`` is in bytes per second, ``memory`` in bytes. The efficiencies say which
    share of peak and bandwidth to expect before anybody has measured.

    Example:
        h100-sxm turns from memory-bound to compute-bound at 989.4e12 / 3.35e12 = 295 operations per byte.
    """

    name: str
    peak_bf16: Flops
    peak_fp8: Flops | None = None
    memory_bandwidth: Bandwidth
    memory: Size
    flops_efficiency: Range = FLOPS_EFFICIENCY
    memory_efficiency: Range = MEMORY_EFFICIENCY
    source: str


class _DeviceFile(Spec):
    devices: list[Device]


@cache
def _shipped() -> dict[str, Device]:
    text = (resources.files("smoes_sim") / "data" / "devices.yaml").read_text(encoding="utf-8")
    devices = Document(text, name="smoes_sim/data/devices.yaml").validate(_DeviceFile).devices
    return {device.name: device for device in devices}


def device_names() -> tuple[str, ...]:
    """Names of the shipped devices, sorted."""
    return tuple(sorted(_shipped()))


def find_device(name: str) -> Device:
    """The shipped device called ``name``.

    Raises:
        ConfigError: If no device has the name.
    """
    devices = _shipped()
    if name not in devices:
        raise ConfigError(f'device = "{name}" is unknown. {nearest(name, devices)}')
    return devices[name]
