"""Compile everything that numba compiles, ahead of the first prediction that needs it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np

from smoes_sim.network import Network
from smoes_sim.network.fifo.exchange import fifo_times
from smoes_sim.network.fifo.kernel import compiled_run
from smoes_sim.topology import Topology

COMPILED = (
    "network.fluid.compiled",
    "network.fluid.compiled_pass",
    "network.fluid.compiled_routes",
    "routing.compiled",
    "traffic.compiled",
)
"""Modules that compile, or load from numba's cache, when they are imported."""


def compile_all() -> list[Path]:
    """Compile what is missing from numba's cache; returns its folders, none if nothing is kept.

    numba writes beside the package, else below ``$HOME/.cache``, else nowhere; ``NUMBA_CACHE_DIR`` names another place.
    """
    modules = [import_module(f"smoes_sim.{name}") for name in COMPILED]
    network = Network.on(Topology.load({"kind": "star", "ranks": 2, "link": {"bandwidth": "1 GB/s", "latency": "0 us"}}))
    one = network.messages(np.array([0]), np.array([1]), np.array([1.0]))
    fifo_times(network, [one], compiled=True)
    functions = [compiled_run(), *(value for module in modules for value in vars(module).values())]
    folders = {stats.cache_path for function in functions if (stats := getattr(function, "stats", None)) is not None}
    return sorted(Path(folder) for folder in folders if folder)
