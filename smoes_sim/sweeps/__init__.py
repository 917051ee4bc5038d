"""How do predictions change over a grid of scenarios?

``study`` reads the file and makes the points, ``identity`` says what the numbers of a point depend on, ``store`` keeps one
file per finished point under a hash of that, ``run`` computes the missing points with a backend of ``workers``, ``result``
is the typed result.
"""

from __future__ import annotations

from smoes_sim.sweeps.result import SweepPoint, SweepResult
from smoes_sim.sweeps.run import Shard, Tally, run_sweep
from smoes_sim.sweeps.study import PlotSpec, Point, Sweep, SweepFile, in_one_line, load_sweep, make_point, sweep_names

__all__ = [
    "PlotSpec",
    "Point",
    "Shard",
    "Sweep",
    "SweepFile",
    "SweepPoint",
    "SweepResult",
    "Tally",
    "in_one_line",
    "load_sweep",
    "make_point",
    "run_sweep",
    "sweep_names",
]
