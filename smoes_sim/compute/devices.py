"""What one accelerator can do at best: dense peaks, memory bandwidth, memory size, each with its source."""

from __future__ import annotations

from functools import cache
from importlib import resources

from smoes_sim.errors import ConfigError
from smoes_sim.files import Document, Spec, nearest
from smoes_sim.units import Bandwidth, Flops, Size


class Device(Spec):
    """One accelerator.

    ``peak_bf16`` and ``peak_fp8`` are dense rates in operations per second (a multiply-add is two), ``None`` where the
    format is not built in; ``memory_bandwidth`` is in bytes per second, ``memory`` in bytes.

    Example:
        h100-sxm turns from memory-bound to compute-bound at 989.4e12 / 3.35e12 = 295 operations per byte.
    """

    name: str
    peak_bf16: Flops
    peak_fp8: Flops | None = None
    memory_bandwidth: Bandwidth
    memory: Size
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
