"""Compile everything that numba compiles, ahead of the first prediction that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim.network.fifo.exchange import fifo_times
from smoes_sim.network.fifo.kernel import compiled_run
from smoes_sim.network.flows import Network
from smoes_sim.topology.shipped import topology_of_mapping


def compile_all() -> list[Path]:
    """Compile the fluid and the FIFO model, or load them from numba's cache; returns its folders, none if nothing is kept.

    numba writes beside the package, else below ``$HOME/.cache``, else nowhere; ``NUMBA_CACHE_DIR`` names another place.
    """
    from smoes_sim.network.fluid import compiled, compiled_routes  # noqa: PLC0415 - importing them compiles

    link = {"bandwidth": "1 GB/s", "latency": "0 us"}
    network = Network.on(topology_of_mapping({"kind": "star", "ranks": 2, "link": link}))
    one = network.messages(np.array([0]), np.array([1]), np.array([1.0]))
    fifo_times(network, [one], compiled=True)
    functions: list[Any] = [compiled.fill, compiled_routes.select, compiled_run()]
    return sorted({Path(folder) for function in functions if (folder := function.stats.cache_path)})
