"""Verdicts of ``python -m benchmarks.lab``: figures are given here, not measured."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is in the repository, not in the package")

from benchmarks.lab_targets import keep, verdicts


def document(*, floor=0.005, **changed):
    exchanges = {"median": 0.01, "p90": 0.04, "floor_median": floor, "floor_p90": 3 * floor}
    layers = {"median": 0.02, "floor_median": 0.01}
    saving = {"tokens": "modality", "time_predicted": 0.5, "time_measured": 0.47}
    exchanges |= {key: value for key, value in changed.items() if key in exchanges}
    groups = {"exchanges, receives posted first": exchanges, "whole MoE layers": layers}
    return {"groups": groups, "savings": [saving], "labs": ["lab-star-4"]}


def test_errors_within_their_targets_meet_them():
    found = verdicts(document())
    assert [verdict.is_met for verdict in found] == [True] * 4
    assert str(found[0]) == "exchanges, median error: 1.0% of at most 3% (measured again: 0.5%): met"
    assert [round(verdict.error, 9) for verdict in found] == [0.01, 0.04, 0.02, 0.03]


def test_an_error_beyond_target_and_repeatability_misses():
    found = verdicts(document(median=0.031, p90=0.101))
    assert [verdict.is_met for verdict in found] == [False, False, True, True]
    assert str(found[1]) == "exchanges, 90th percentile: 10.1% of at most 10% (measured again: 1.5%): MISSED"


def test_exchanges_of_attention_are_judged_where_they_were_measured():
    with_them = document()
    with_them["groups"]["exchanges of attention"] = {"median": 0.06, "floor_median": 0.01}
    found = [verdict for verdict in verdicts(with_them) if verdict.what == "exchanges of attention, median error"]
    assert [(verdict.target, verdict.is_met) for verdict in found] == [(0.05, False)]


def test_an_error_as_large_as_what_the_same_run_repeats_is_no_miss():
    # the 90th percentile of the same cases measured again is 3 x 0.019 = 5.7%; of 12% when it is 3 x 0.04
    assert [verdict.is_met for verdict in verdicts(document(p90=0.12, floor=0.019))][:2] == [True, False]
    assert [verdict.is_met for verdict in verdicts(document(p90=0.12, floor=0.04))][:2] == [True, True]


def test_a_machine_that_does_not_repeat_itself_decides_no_miss():
    # 2.1% between two measurements of the same exchange is more than 2%
    found = verdicts(document(median=0.05, floor=0.021))
    assert [verdict.is_met for verdict in found] == [None, True, True, True]
    assert str(found[0]).endswith("not judged: the machine is too noisy")


def test_constants_fitted_on_disturbed_exchanges_decide_no_miss():
    # measured 2026-11 on a busy machine: held-out exchanges repeated within 1.0%, the fitted ones within 23.9%
    disturbed = document(median=0.125, floor=0.010)
    disturbed["groups"]["fitted: ping-pong and one all-to-all"] = {"floor_median": 0.239}
    assert [verdict.is_met for verdict in verdicts(disturbed)] == [None, True, True, True]


def test_what_was_not_measured_is_not_judged():
    assert verdicts({"groups": {}, "savings": []}) == []


def test_every_run_stays_in_the_history_with_its_date(tmp_path):
    for median in (0.01, 0.02):
        path = keep(tmp_path, document(median=median), verdicts(document(median=median)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["groups"]["exchanges, receives posted first"]["median"] for line in lines] == [0.01, 0.02]
    assert all(line["machine"]["date"] and len(line["verdicts"]) == 4 for line in lines)
