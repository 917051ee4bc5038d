"""How fast and how right the network core is, in one table, from a checkout: ``python -m benchmarks.network``."""
