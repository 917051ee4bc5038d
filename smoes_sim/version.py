"""The version of the package, for everything inside that writes it into files."""

__version__ = "0.2.0"
