"""How long does each rank compute, and how much memory does it need?

Main types: :class:`Device` (peaks and bandwidth), :class:`RankLoad` (work of each rank) and :class:`ComputeTimes`.
``roofline`` turns operations and bytes into seconds, ``attention`` and ``layers`` the parts of a step, ``vision`` the vision
tower; ``formats`` says how many bytes an element takes, ``memory`` counts them, ``cores`` shares the cores of one machine.
Neighbours: ``models`` has the shapes, ``step`` orders the times.
"""

from smoes_sim.compute.attention import AttentionTimes, attention_times
from smoes_sim.compute.devices import Device, Range, Share, device_names, find_device
from smoes_sim.compute.formats import CacheFormat, WeightFormat, WeightFormats, format_of
from smoes_sim.compute.layers import ComputeTimes, compute_times
from smoes_sim.compute.load import ComputeRates, RankLoad
from smoes_sim.compute.memory import MemoryNeed, StepSize, memory_of_rank
from smoes_sim.compute.roofline import roofline_time
from smoes_sim.compute.vision import vision_time

__all__ = [
    "AttentionTimes",
    "CacheFormat",
    "ComputeRates",
    "ComputeTimes",
    "Device",
    "MemoryNeed",
    "Range",
    "RankLoad",
    "Share",
    "StepSize",
    "WeightFormat",
    "WeightFormats",
    "attention_times",
    "compute_times",
    "device_names",
    "find_device",
    "format_of",
    "memory_of_rank",
    "roofline_time",
    "vision_time",
]
