"""How long does work take on one device, with no communication: peaks, bandwidth, roofline.

Main type: :class:`~smoes_sim.compute.devices.Device`; :func:`~smoes_sim.compute.roofline.roofline_time` gives seconds.
Neighbours: ``models`` says how many operations and bytes a layer has, ``timeline`` orders the times of a step.
"""

from smoes_sim.compute.devices import Device, Range, Share, device_names, find_device
from smoes_sim.compute.layers import ComputeRates, ComputeTimes, Precision, RankLoad, attention_times, compute_times
from smoes_sim.compute.memory import MemoryNeed, StepSize, memory_of_rank
from smoes_sim.compute.roofline import roofline_time
from smoes_sim.compute.vision import vision_time

__all__ = [
    "ComputeRates",
    "ComputeTimes",
    "Device",
    "MemoryNeed",
    "Precision",
    "Range",
    "RankLoad",
    "Share",
    "StepSize",
    "attention_times",
    "compute_times",
    "device_names",
    "find_device",
    "memory_of_rank",
    "roofline_time",
    "vision_time",
]
