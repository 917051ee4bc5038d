"""Accelerators: dense peaks, memory bandwidth and memory size, each with its source."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Annotated, Self

from pydantic import Field, model_validator

from smoes_sim.compute.formats import WeightFormat
from smoes_sim.errors import ConfigError
from smoes_sim.units import Bandwidth, Flops, Size
from smoes_sim.yaml_files import Document, Spec, nearest

Share = Annotated[float, Field(gt=0, le=1)]


class Range(Spec):
    """An uncertain share of a peak: the value that is used, and the ends of its range."""

    low: Share = Field(description="Lowest value, above 0.", examples=[0.3])
    value: Share = Field(description="Value that is used where one number is needed.", examples=[0.5])
    high: Share = Field(description="Highest value, up to 1.", examples=[0.7])

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low = {self.low}, value = {self.value}, high = {self.high}: must rise. Sort them.")
        return self

    def quantile(self, part: float) -> float:
        """The share at a quantile: ``low`` at 0, ``value`` at 0.5, ``high`` at 1, linear in between.

        Example:
            >>> Range(low=0.25, value=0.5, high=0.625).quantile(0.75)
            0.5625
        """
        near, far = (self.low, self.value) if part < 0.5 else (self.value, self.high)
        return near + (far - near) * (2 * part - (0 if part < 0.5 else 1))


FLOPS_EFFICIENCY = Range(low=0.3, value=0.5, high=0.7)
"""Share of the dense peak that matrix products reach when arithmetic limits them; default of every device.

Kernels of DeepSeek-V3's shapes on H800 (1978.9 TFLOPS in FP8, 989.4 in BF16): dense products of 4096 rows 590 to 1358
TFLOPS, grouped ones 815 to 1297 (github.com/deepseek-ai/DeepGEMM, README of 2025-02-25): 0.30 to 0.69. MLA decoding 660
(README of FlashMLA): 0.67. Attention on B200 1460 of 2250 TFLOPS (ibid.): 0.65. Other devices: assumed to be the same. The
middle is an assumption. Measured kernel by kernel; nothing was fitted to times of whole steps.
"""
MEMORY_EFFICIENCY = Range(low=0.5, value=0.8, high=0.9)
"""Share of the memory bandwidth that is reached when memory limits; default of every device.

H800 (3.35 TB/s), same sources: products of 64 rows 1688 to 2668 GB/s, 0.50 to 0.80; MLA decoding 3000 GB/s, 0.90.
"""


class Device(Spec):
    """One accelerator.

    The peaks are dense rates in operations per second (a multiply-add is two), ``None`` where the device has no units for
    the format; ``memory_bandwidth`` is in bytes per second, ``memory`` in bytes. The efficiencies are the shares of peak and
    bandwidth to expect without a measurement. ``also`` are other names in use.

    Example:
        h100-sxm is compute-bound above 989.4e12 / 3.35e12 = 295 operations per byte:

        >>> device = find_device("h100-sxm")
        >>> round(device.peak_bf16 / device.memory_bandwidth)
        295
    """

    name: str
    peak_bf16: Flops
    peak_fp8: Flops | None = None
    peak_int8: Flops | None = None
    peak_fp4: Flops | None = None
    memory_bandwidth: Bandwidth
    memory: Size
    flops_efficiency: Range = FLOPS_EFFICIENCY
    memory_efficiency: Range = MEMORY_EFFICIENCY
    also: tuple[str, ...] = Field((), strict=False)
    source: str

    def peak(self, weights: WeightFormat) -> float:
        """Dense rate of products with weights in a format, operations per second.

        fp8, int8 and the three fp4 formats run in their own units where the device has them and they are faster than bf16
        (weights and activations in the format: W8A8, W4A4). Otherwise, and always for int4, weights are unpacked and
        multiplied in bf16: fewer bytes are read, products are no faster (vLLM: FP8 on Ampere is "weight-only W8A16";
        W4A16 of GPTQ, AWQ and Kimi-K2). fp32 runs as TF32, at half the bf16 rate (A100, H100 and B200 data sheets).

        Example:
            >>> h100 = find_device("h100-sxm")
            >>> [round(h100.peak(weights) / h100.peak_bf16, 3) for weights in ("fp8", "int4", "mxfp4", "fp32")]
            [2.0, 1.0, 1.0, 0.5]
        """
        if weights == "fp32":
            return self.peak_bf16 / 2
        units = {"fp8": self.peak_fp8, "int8": self.peak_int8} | dict.fromkeys(("fp4", "mxfp4", "nvfp4"), self.peak_fp4)
        return max(self.peak_bf16, units.get(weights) or 0.0)


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


def _plain(name: str) -> str:
    """A name without case, punctuation and vendor: ``NVIDIA H100 SXM`` and ``h100-sxm`` are the same."""
    return re.sub("^(nvidia|amdinstinct|amd|instinct)", "", re.sub("[^a-z0-9]", "", name.lower()))


@cache
def _by_plain_name() -> dict[str, tuple[str, ...]]:
    """Names of the devices that are meant by each plain name, sorted; the name of a device means that one alone."""
    found: dict[str, tuple[str, ...]] = {}
    for device in sorted(_shipped().values(), key=lambda device: device.name):
        for name in device.also:
            found[_plain(name)] = (*found.get(_plain(name), ()), device.name)
    return found | {_plain(name): (name,) for name in _shipped()}


def find_device(name: str) -> Device:
    """The shipped device called ``name``, by its own name or another that is in use.

    Raises:
        ConfigError: If no device has the name, or several.

    Example:
        >>> [find_device(name).name for name in ("H200", "NVIDIA H100 SXM", "gb200-nvl72")]
        ['h200-sxm', 'h100-sxm', 'gb200']
    """
    devices = _shipped()
    meant = _by_plain_name().get(_plain(name), ())
    if len(meant) > 1:
        raise ConfigError(f'device = "{name}" may be {", ".join(meant[:-1])} or {meant[-1]}. Write one of them.')
    if not meant:
        also = {word for device in devices.values() for word in device.also}
        raise ConfigError(f'device = "{name}" is unknown. {nearest(name.lower().replace(" ", "-"), devices, also=also)}')
    return devices[meant[0]]
