"""Run the commands of a question and say what they took."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.answers.questions import OUT, Question
from benchmarks.processes import Finished, run_process

_SHORT_S = 2.0
"""Commands below this are run three times, and the median counts."""
_COMPARED = ("ttft_s", "tpot_s", "ep_comm_s", "decode_ep_comm_s")
"""Times of a prediction that are held against the exact engine, where both have them."""
_WITH_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an answer took.

    Attributes:
        cpu_s, wall_s: Seconds of all commands of the question together.
        peak_MB: Largest resident memory of a process, 1e6 bytes.
        problem: Why there is no answer; empty if there is one.
        errors: Relative error of each time against the exact engine; empty where not measured.
        exact_cpu_s: CPU seconds of the exact engine; None where not measured.
        exact_problem: Why it gave no answer.
    """

    cpu_s: float
    wall_s: float
    peak_MB: float  # noqa: N815 (a unit)
    problem: str = ""
    errors: Mapping[str, float]
    exact_cpu_s: float | None = None
    exact_problem: str = ""


def measure(question: Question, *, limit_s: float, exact_limit_s: float) -> Taken:
    """Run a question; with ``exact_limit_s`` > 0 also by the exact engine, if it has one.

    A question that gives no answer within ``limit_s`` is stopped.
    """
    runs = [_run(question, limit_s=limit_s)]
    if not runs[0].problem and runs[0].cpu_s < _SHORT_S and not question.is_wall:
        runs += [_run(question, limit_s=limit_s) for _ in range(2)]
    middle = sorted(runs, key=lambda run: run.cpu_s)[len(runs) // 2]
    exact = None
    if question.has_engines and exact_limit_s and not middle.problem:
        exact = _run(question, "engine=exact", "sampling=none", limit_s=exact_limit_s)
    return Taken(
        cpu_s=middle.cpu_s,
        wall_s=middle.wall_s,
        peak_MB=middle.peak_MB,
        problem=middle.problem,
        errors={} if exact is None or exact.problem else _errors(middle.output, exact.output),
        exact_cpu_s=None if exact is None else exact.cpu_s,
        exact_problem="" if exact is None else exact.problem,
    )


def _run(question: Question, *more: str, limit_s: float) -> Finished:
    """All commands of a question, one after the other, as one; the output is that of the last."""
    with tempfile.TemporaryDirectory() as folder:
        done: list[Finished] = []
        for command in question.commands:
            left = limit_s - sum(run.wall_s for run in done)
            arguments = [part.replace(OUT, str(Path(folder) / "out")) for part in command]
            done.append(
                run_process([*arguments, *more], environment=_WITH_BYTECODE, limit_s=left, exit_code=question.exit_code)
            )
            if done[-1].problem:
                break
    return Finished(
        output=done[-1].output,
        problem=done[-1].problem,
        wall_s=sum(run.wall_s for run in done),
        cpu_s=sum(run.cpu_s for run in done),
        peak_MB=max(run.peak_MB for run in done),
    )


def _errors(ours: str, exact: str) -> dict[str, float]:
    """Relative error of each time that both predictions have."""
    mine, true = (_times(json.loads(text)) for text in (ours, exact))
    return {name: mine[name] / true[name] - 1 for name in _COMPARED if mine.get(name) and true.get(name)}


def _times(document: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in document.items() if name in _COMPARED and isinstance(value, int | float)}


def verdict(question: Question, taken: Taken) -> Sequence[str]:
    """What was missed, in words; empty if nothing was."""
    if taken.problem:
        return [taken.problem]
    seconds = taken.wall_s if question.is_wall else taken.cpu_s
    missed = [f"{seconds:.3g} s > {question.goal:g} s"] if seconds > question.goal else []
    if question.most_GB is not None and taken.peak_MB > 1e3 * question.most_GB:
        missed.append(f"{taken.peak_MB / 1e3:.2f} GB > {question.most_GB:g} GB")
    return missed
