"""The roofline: a kernel takes as long as its arithmetic or its memory traffic, whichever is slower, plus its launch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoes_sim.compute.devices import Device
from smoes_sim.compute.formats import WeightFormat
from smoes_sim.errors import ConfigError


def roofline_time(
    *,
    flops: ArrayLike,
    bytes_moved: ArrayLike,
    device: Device,
    flops_efficiency: float,
    memory_efficiency: float,
    launch: float = 0.0,
    precision: WeightFormat = "bf16",
) -> NDArray[np.float64]:
    """Seconds that each piece of work takes on ``device``.

    ``time = max(flops / (peak * flops_efficiency), bytes / (bandwidth * memory_efficiency)) + launch``; work without
    operations and bytes is not launched and takes 0 s. Arithmetic and memory traffic of a kernel are assumed to overlap
    perfectly, and efficiencies do not depend on the size: small matrices are slower than this.

    Args:
        flops: Operations of each piece, any shape; a multiply-add is two.
        bytes_moved: Bytes read from and written to memory, a shape that broadcasts with ``flops``.
        device: The device; its dense peak for products of weights in ``precision`` is used.
        flops_efficiency: Share of the peak that is reached, in (0, 1].
        memory_efficiency: Share of the memory bandwidth that is reached, in (0, 1].
        launch: Fixed cost of a piece, seconds.
        precision: Format of the weights that are multiplied (:meth:`Device.peak`).

    Returns:
        Seconds, in the broadcast shape of ``flops`` and ``bytes_moved``.

    Raises:
        ConfigError: If an efficiency, the launch cost or the work is out of range.

    Example:
        312e9 operations on an A100 of 312 TFLOPS, half of which is reached, and a launch of 5 us: 2.005 ms.

        >>> from smoes_sim.compute import find_device
        >>> a100 = find_device("a100-sxm4-80gb")
        >>> options = {"device": a100, "flops_efficiency": 0.5, "memory_efficiency": 0.5, "launch": 5e-6}
        >>> round(float(roofline_time(flops=312e9, bytes_moved=0, **options)) * 1e3, 6)
        2.005
    """
    peak = device.peak(precision)
    for name, efficiency in (("flops_efficiency", flops_efficiency), ("memory_efficiency", memory_efficiency)):
        if not 0 < efficiency <= 1:
            raise ConfigError(f"{name} = {efficiency}: must lie in (0, 1]. Give the share of the peak that is reached.")
    if not launch >= 0:
        raise ConfigError(f"launch = {launch}: must be >= 0 seconds.")
    work, traffic = np.broadcast_arrays(np.asarray(flops, np.float64), np.asarray(bytes_moved, np.float64))
    if not (np.all(work >= 0) and np.all(traffic >= 0)):
        raise ConfigError("flops and bytes_moved: must be >= 0 everywhere. Check the counts.")
    slower = np.maximum(work / (peak * flops_efficiency), traffic / (device.memory_bandwidth * memory_efficiency))
    return np.where((work > 0) | (traffic > 0), slower + launch, 0.0)
