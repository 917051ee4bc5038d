"""What happens over a grid of scenarios: many points, each predicted once, whoever computes it and however often killed.

``study`` reads the file and makes the points, ``store`` keeps one file per finished point under a hash of all that it
depends on, ``run`` has what is missing computed by a backend of ``workers``, ``table`` puts the points together.
"""

from __future__ import annotations

from smoes_sim.sweeps.run import Shard, Tally, run_sweep
from smoes_sim.sweeps.study import PlotSpec, Point, Sweep, SweepFile, in_one_line, load_sweep, make_point, sweep_names

__all__ = [
    "PlotSpec",
    "Point",
    "Shard",
    "Sweep",
    "SweepFile",
    "Tally",
    "in_one_line",
    "load_sweep",
    "make_point",
    "run_sweep",
    "sweep_names",
]
