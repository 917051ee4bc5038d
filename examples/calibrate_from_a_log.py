"""From measured times to constants of a machine, and to the error on the sizes that were not fitted.

The times are made here from a known machine: an 8-way node whose links reach 80% of their rate, with 14 us of software per
exchange. Calibration finds the 80%, and says that these rows cannot separate software per message from software per
exchange. A log of nccl-tests becomes such a table by `smoes-sim measurements import`.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import smoes_sim as ss

SIZES = [2**power for power in range(16, 29, 2)]

with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "rows.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        names = ["id", "nodes", "ranks_per_node", "mode", "op", "topology", "schedule", "bytes_per_rank", "time_us"]
        rows.writerow(names)
        for size in SIZES:
            time = 14 + 7 / 8 * size / (0.8 * 450e9) * 1e6  # software, then 7 of 8 blocks over 450 GB/s
            rows.writerow([f"size-{size}", 1, 8, "alltoall", "alltoall", "8x-h100", "direct", size, f"{time:.3f}"])

    fit = ss.calibrate(ss.read_measurements(table), fit=[f"bytes_per_rank={size} B" for size in SIZES[::2]])
    for name, constant in fit.calibration.parameters.items():
        words = "identified" if constant.identified else "not identified"
        print(f"{name:18} {constant.value:.3g}  [{constant.low:.3g}, {constant.high:.3g}]  {words}")

    found = ss.validate(ss.read_measurements(table), calibration=fit.calibration)
    print(found)
