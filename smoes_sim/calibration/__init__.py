"""Which constants explain what was measured, and which of them does it leave open?

``step_latencies`` fits to the two latencies of a scenario, ``rows`` to any number of timed exchanges and phases
(``priors`` says what is assumed of a constant before any data, ``least_squares`` fits and draws).
"""

from smoes_sim.calibration.step_latencies import fit_step_latencies
from smoes_sim.calibration.timed_rows import Fitted, fit_rows, select_rows

__all__ = ["Fitted", "fit_rows", "fit_step_latencies", "select_rows"]
