"""What expert parallelism costs on a topology, and what SMoES, another placement or another network would save."""

from smoes_sim.version import __version__

__all__ = ["__version__"]
