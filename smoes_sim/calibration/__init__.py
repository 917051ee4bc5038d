"""Which constants explain the measurements, and which of them do the data leave open?

``timed_rows`` fits to timed exchanges and phases, ``step_latencies`` to the TTFT and TPOT of one scenario. ``cases`` makes
a measured row ready for the simulator, ``priors`` holds what is assumed of a constant before any data, ``least_squares``
fits and draws.
"""

from smoes_sim.calibration.fit_result import CalibrationFit, Residual
from smoes_sim.calibration.step_latencies import fit_step_latencies
from smoes_sim.calibration.timed_rows import fit_rows, select_rows

__all__ = ["CalibrationFit", "Residual", "fit_rows", "fit_step_latencies", "select_rows"]
