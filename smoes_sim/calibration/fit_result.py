"""What a fit returns: the calibration, and how well it explains the fitted rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, wrapped
from smoes_sim.prediction.constants import Calibration, calibration_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Residuals of one fitted row.

    Attributes:
        id: Name of the row.
        residual: log(predicted / measured) of the fit.
        left_out: The same, with the row's group left out of the fit.
    """

    id: str
    residual: float
    left_out: float


@dataclass(frozen=True, kw_only=True, repr=False)
class CalibrationFit(Result):
    """A calibration, and how well it explains the rows that it was fitted on.

    Attributes:
        calibration: The fitted constants.
        residuals: One entry per fitted row; empty where every draw reproduces all rows exactly.
        held_out: Number of rows of the table that were not fitted.
    """

    calibration: Calibration
    residuals: tuple[Residual, ...]
    held_out: int

    def to_dict(self) -> dict[str, Any]:
        """The calibration file with ``residuals`` and ``held_out``."""
        return self.calibration.model_dump() | {"residuals": self.records(), "held_out": self.held_out}

    def records(self) -> list[dict[str, Any]]:
        """Residuals of the fitted rows."""
        return [{"id": row.id, "residual": row.residual, "left_out": row.left_out} for row in self.residuals]

    def tables(self) -> list[Table]:
        """The constants and the model's error."""
        known = self.calibration
        notes = []
        if self.residuals:
            notes.append(
                f"Error of the model, on rows left out of the fit: {100 * known.spread:.2g} % (standard deviation)."
            )
        if known.repeat_spread:
            notes.append(f"Repeats of one row scatter by {100 * known.repeat_spread:.2g} %.")
        if len(known.spreads) > 1:
            spreads = ", ".join(f"{kind} {100 * spread:.2g} %" for kind, spread in known.spreads.items())
            notes.append(f"By kind of row: {spreads}.")
        if self.held_out:
            notes.append(f"{self.held_out} rows are held out; smoes-sim validate predicts them.")
        table = calibration_table(known)
        return [replace(table, notes=wrapped([*table.notes, *notes]))]
