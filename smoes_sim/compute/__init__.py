"""How long does work take on one device, with no communication: peaks, bandwidth, roofline.

Main type: :class:`~smoes_sim.compute.devices.Device`; :func:`~smoes_sim.compute.roofline.roofline_time` gives seconds.
Neighbours: ``models`` says how many operations and bytes a layer has, ``timeline`` orders the times of a step.
"""

from smoes_sim.compute.devices import Device, device_names, find_device
from smoes_sim.compute.layers import ComputeRates, ComputeTimes, RankLoad, compute_times
from smoes_sim.compute.roofline import roofline_time

__all__ = [
    "ComputeRates",
    "ComputeTimes",
    "Device",
    "RankLoad",
    "compute_times",
    "device_names",
    "find_device",
    "roofline_time",
]
