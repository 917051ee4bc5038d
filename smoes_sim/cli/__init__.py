"""The command ``smoes-sim``: arguments in, tables or JSON out. No logic lives here."""

from smoes_sim.cli.app import main

__all__ = ["main"]
