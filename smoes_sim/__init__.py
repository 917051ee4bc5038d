"""What expert parallelism costs on a topology, and what SMoES, another placement or another network would save."""

__version__ = "0.1.0"
