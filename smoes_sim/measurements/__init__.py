"""What was measured on real systems?

``table`` reads and writes the measurements table, one row per measured operation; ``imported`` makes rows from the logs of
nccl-tests and rccl-tests, which ``nccl_tests`` parses.
"""

from smoes_sim.measurements.table import (
    COLUMNS,
    MEANINGS,
    NUMBERS,
    Measurement,
    Measurements,
    data_hash,
    measured_time,
    read_measurements,
    value_of,
    write_measurements,
)

__all__ = [
    "COLUMNS",
    "MEANINGS",
    "NUMBERS",
    "Measurement",
    "Measurements",
    "data_hash",
    "measured_time",
    "read_measurements",
    "value_of",
    "write_measurements",
]
