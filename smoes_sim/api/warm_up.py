"""Compile everything that numba compiles, ahead of the first prediction that needs it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim.jit import Compiled
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
"""Modules with functions that numba compiles when they are called first."""


def compile_all() -> list[Path]:
    """Compile what is missing from numba's cache; returns its folders, none if nothing is kept.

    numba writes beside the package, else below ``$HOME/.cache``, else nowhere; ``NUMBA_CACHE_DIR`` names another place.
    """
    modules = [import_module(f"smoes_sim.{name}") for name in COMPILED]
    network = Network.on(Topology.load({"kind": "star", "ranks": 2, "link": {"bandwidth": "1 GB/s", "latency": "0 us"}}))
    one = network.messages(np.array([0]), np.array([1]), np.array([1.0]))
    fifo_times(network, [one], compiled=True)
    functions = [value for module in modules for value in vars(module).values() if isinstance(value, Compiled)]
    entries: list[Any] = [compiled_run(), *(function.dispatcher for function in functions if not function.is_part)]
    folders = {entry.stats.cache_path for entry in entries}
    return sorted(Path(folder) for folder in folders if folder)
