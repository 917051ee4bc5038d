"""A table of exchanges whose times the simulator made with known constants, and noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from smoes_sim.calibration.cases import CaseReader
from smoes_sim.measurements import Measurement, write_measurements

TOPOLOGIES = {
    "star3": "kind: star\nranks: 3\nlink: {kind: ethernet, bandwidth: 400 Mb/s, latency: 0 us}\n",
    "star4": "kind: star\nranks: 4\nlink: {kind: ethernet, bandwidth: 200 Mb/s, latency: 0 us}\n",
    "nodes": "kind: two_level\nnodes: 2\nranks_per_node: 2\nscale_up: {kind: veth, bandwidth: 800 Mb/s, latency: 0 us}\n"
    "nic: {kind: ethernet, per: rank, bandwidth: 100 Mb/s, latency: 0 us}\n",
}
TRUTH = {"efficiency.ethernet": 0.95, "efficiency.veth": 0.9, "per_exchange": 6e-4, "per_message": 1e-3}
NOISE = 0.02
"""Standard deviation of the logarithm of a measured time."""


def write_rows(folder: Path, *, seed: int = 0, constants: dict[str, float] | None = None) -> Path:
    """Ping-pong (sendrecv), even and uneven all-to-all on three topologies, as ``rows.csv``: 51 rows."""
    rng = np.random.default_rng(seed)
    rows: list[Measurement] = []
    for name, text in TOPOLOGIES.items():
        (folder / f"{name}.yaml").write_text(text)
        nodes, ranks_per_node = (2, 2) if name == "nodes" else (int(name[-1]), 1)
        num_ranks = nodes * ranks_per_node
        base = Measurement(
            id="", nodes=nodes, ranks_per_node=ranks_per_node, mode="alltoall", op="alltoall", topology=f"{name}.yaml",
            schedule="direct", repeats=9, folder=folder,
        )  # fmt: skip
        for size in (4096, 65536, 1048576):
            matrix = np.zeros((num_ranks, num_ranks))
            matrix[0, num_ranks - 1] = size
            rows.append(_with_matrix(replace(base, mode="sendrecv", op="sendrecv", size=float(size)), matrix, len(rows)))
        rows += [replace(base, size=float(size * num_ranks)) for size in (4096, 65536, 262144, 1048576)]
        for _ in range(10):
            matrix = np.round(rng.lognormal(12, 1, (num_ranks, num_ranks)) * (1 - np.eye(num_ranks)))
            rows.append(_with_matrix(replace(base, op="alltoallv"), matrix, len(rows)))
    reader, timed = CaseReader(), []
    for index, row in enumerate(rows):
        duration = reader.read(row).duration(constants or TRUTH) * float(np.exp(NOISE * rng.standard_normal()))
        ends = {"duration_p10": duration * 0.99, "duration_p90": duration * 1.01}
        timed.append(replace(row, id=f"r{index}", duration=duration, **ends))
    write_measurements(folder / "rows.csv", timed)
    return folder / "rows.csv"


def _with_matrix(row: Measurement, matrix: np.ndarray, index: int) -> Measurement:
    name = f"matrix-{index}.txt"
    np.savetxt(row.folder / name, matrix, fmt="%d")
    return replace(row, matrix=name)


FIT = ["mode=sendrecv", "op=alltoall,bytes_per_rank=196608", "op=alltoall,bytes_per_rank=256 KiB"]
"""Ping-pong and one size of all-to-all (64 KiB a pair): what the fit may see."""
