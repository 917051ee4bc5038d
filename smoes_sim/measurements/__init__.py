"""Measurements of real systems: the table (one row a measured operation), read and written."""

from smoes_sim.measurements.table import (
    COLUMNS,
    NUMBERS,
    Measurement,
    data_hash,
    measured_time,
    read_measurements,
    value_of,
    write_measurements,
)

__all__ = [
    "COLUMNS",
    "NUMBERS",
    "Measurement",
    "data_hash",
    "measured_time",
    "read_measurements",
    "value_of",
    "write_measurements",
]
