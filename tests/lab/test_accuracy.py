"""A third of ``benchmarks.lab``: two labs measured for real, constants fitted on a few runs, all others predicted.

Times of real processes: run alone, ``pytest -m quiet -n 0 -s tests/lab/test_accuracy.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_topologies import needs_root

FLOOR = 0.03
"""A machine on which one and the same exchange differs by more than this (median) cannot judge predictions."""


@pytest.mark.quiet
@pytest.mark.timeout(400)
@needs_root
def test_predictions_are_near_what_two_labs_measure(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from benchmarks.lab import QUICK_REPEATS, SEED, assess
    from benchmarks.lab_cases import QUICK
    from benchmarks.lab_measure import BusyMachine, measure_lab
    from benchmarks.lab_report import report

    try:
        for name in QUICK:
            measure_lab(name, tmp_path / name, seed=SEED, repeats=QUICK_REPEATS)
    except BusyMachine as busy:
        pytest.skip(str(busy))
    accuracy = assess(tmp_path, list(QUICK))
    print(report(accuracy))
    groups = accuracy.document()["groups"]
    exchanges, layers = groups["exchanges, receives posted first"], groups["whole MoE layers"]
    if exchanges["floor_median"] > FLOOR:
        pytest.skip(f"the same exchange again differs by {exchanges['floor_median']:.1%} (median) here: too noisy a machine")
    assert exchanges["n"] >= 35
    assert exchanges["median"] <= 0.04
    assert exchanges["p90"] <= 0.12
    assert layers["n"] >= 10
    assert layers["median"] <= 0.08
