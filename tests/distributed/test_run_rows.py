from __future__ import annotations

from dataclasses import asdict

import pytest

from smoes_sim.distributed.prediction import PredictedPhase
from smoes_sim.distributed.rows import RunRow, layer_rows


def row(phase: str, rank: int, repeat: int, time_s: float, *, cpu_s: float = 0.0, sent: int = 0) -> RunRow:
    return RunRow(
        step=0,
        layer=0,
        phase=phase,
        rank=rank,
        repeat=repeat,
        time_s=time_s,
        cpu_s=cpu_s,
        bytes_sent=sent,
        bytes_received=0,
        tokens=1,
        routed_tokens=1,
        active_experts=1,
    )


def test_a_phase_takes_its_slowest_rank_and_the_median_over_repeats() -> None:
    """Slowest ranks: 3, 5 and 4 s, so 4 in the middle; the percentiles of three lie at 3.2 and 4.8 s."""
    times = {0: (1.0, 3.0), 1: (5.0, 2.0), 2: (4.0, 4.0)}
    rows = [
        row("combine", rank, repeat, time, cpu_s=0.1 * (rank + 1), sent=10 * (rank + 1))
        for repeat, both in times.items()
        for rank, time in enumerate(both)
    ]
    predictions = {
        (0, 0, phase): PredictedPhase(value=5.0, low=4.5, high=6.0) for phase in ("dispatch", "experts", "combine")
    }
    found = layer_rows([*rows, row("dispatch", 0, 0, 1.0)], predictions)
    assert [part.phase for part in found] == ["dispatch", "combine"]
    assert asdict(found[1]) == {
        "step": 0,
        "layer": 0,
        "phase": "combine",
        "measured_s": 4.0,
        "measured_p10_s": pytest.approx(3.2),
        "measured_p90_s": pytest.approx(4.8),
        "cpu_s": pytest.approx(0.2),
        "bytes_remote": 30,
        "predicted_s": 5.0,
        "predicted_low_s": 4.5,
        "predicted_high_s": 6.0,
        "relative_error": 0.25,
    }
