"""The benchmark of answers works; what answers take is not judged here."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is in the repository, not in the package")

from benchmarks.answers.__main__ import main
from benchmarks.answers.measure import Taken, measure, verdict
from benchmarks.answers.questions import QUESTIONS, Question
from smoes_sim.planning import load_plan
from smoes_sim.scenario import load_scenario
from smoes_sim.sweeps import load_sweep

SHORT = Question(name="short", text="short", commands=((sys.executable, "-c", "print('{}')"),), goal=100)
TAKEN = Taken(cpu_s=2.0, wall_s=1.0, peak_MB=3000.0, errors={})


def test_commands_name_files_that_load():
    for question in QUESTIONS:
        for _, _, _, command, *arguments in (line for line in question.commands if len(line) > 3):
            if command == "simulate" and question.exit_code == 0:
                load_scenario(arguments[0], [part for part in arguments[1:] if "=" in part])
            if command == "plan":
                assert load_plan(arguments[0]).offers
    assert len(load_sweep("benchmarks/answers/sweep-120.yaml").points) == 120


def test_names_of_questions_differ():
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)


def test_an_answer_over_its_goal_or_memory_is_missed():
    assert verdict(replace(SHORT, goal=1), TAKEN) == ["2 s > 1 s"]
    assert verdict(replace(SHORT, goal=1, is_wall=True, most_GB=2), TAKEN) == ["3.00 GB > 2 GB"]
    assert verdict(replace(SHORT, goal=3), replace(TAKEN, problem="stopped after 5 s")) == ["stopped after 5 s"]


def test_another_exit_code_is_a_problem():
    wrong = replace(SHORT, exit_code=2)
    assert measure(wrong, limit_s=60, exact_limit_s=0).problem
    assert not measure(SHORT, limit_s=60, exact_limit_s=0).problem


def test_errors_are_against_the_exact_engine():
    code = "import json, sys; print(json.dumps({'ttft_s': 2.0 if 'engine=exact' in sys.argv else 2.1}))"
    found = measure(replace(SHORT, commands=((sys.executable, "-c", code),), has_engines=True), limit_s=60, exact_limit_s=60)
    assert found.errors == {"ttft_s": pytest.approx(0.05)}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SystemExit, match=r"--only nothing names no question. Known: help, topology-list"):
        main(["--only", "nothing"])
