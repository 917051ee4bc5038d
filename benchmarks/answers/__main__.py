"""``python -m benchmarks.answers``: print what every answer takes, beside its goal; exit code 1 if a goal was missed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.answers.measure import Taken, measure, verdict
from benchmarks.answers.questions import QUESTIONS, Question
from benchmarks.document import between, machine_line, markdown
from benchmarks.processes import machine, run_process

_HEADER = ("question", "took", "goal", "peak memory", "against the exact engine", "", "why missed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table in Markdown and, if asked, write everything as JSON."""
    options = _options().parse_args(arguments)
    asked = [question for question in QUESTIONS if _is_asked(question, options.only)]
    if not asked:
        sys.exit(f"--only {' '.join(options.only)} names no question. Known: {', '.join(one.name for one in QUESTIONS)}")
    about = machine()
    warm = run_process([sys.executable, "-m", "smoes_sim", "--warm-up"], environment={"PYTHONDONTWRITEBYTECODE": ""})
    if warm.problem:
        sys.exit(f"smoes-sim --warm-up: {warm.problem}")
    found: list[tuple[Question, Taken]] = []
    for question in asked:
        print(f"{question.name} ...", file=sys.stderr, flush=True)
        found.append((question, measure(question, limit_s=options.limit, exact_limit_s=options.exact)))
        print("  " + " | ".join(_cells(*found[-1])), file=sys.stderr, flush=True)
    table = f"{machine_line(about)}\n\n{markdown(_HEADER, [_cells(question, taken) for question, taken in found])}"
    print(table)
    if options.docs is not None:
        page = options.docs / "performance.md"
        page.write_text(between(page.read_text(encoding="utf-8"), "answers", table, page), encoding="utf-8")
    if options.json is not None:
        rows = [asdict(question) | asdict(taken) for question, taken in found]
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(verdict(question, taken) for question, taken in found) else 0


def _is_asked(question: Question, only: Sequence[str]) -> bool:
    if not only:
        return not question.on_demand
    return any(part == question.name if question.on_demand else part in question.name for part in only)


def _cells(question: Question, taken: Taken) -> list[str]:
    kind = "s wall" if question.is_wall else "CPU-s"
    seconds = taken.wall_s if question.is_wall else taken.cpu_s
    missed = verdict(question, taken)
    memory = "" if question.most_GB is None else f", <= {question.most_GB:g} GB"
    return [
        question.text,
        f"{'> ' if taken.problem else ''}{seconds:.3g} {kind}",
        f"<= {question.goal:g} {kind}{memory}",
        f"{taken.peak_MB / 1e3:.2f} GB",
        _error_text(taken),
        "MISSED" if missed else "hit",
        "; ".join([*missed, *([question.why] if missed and question.why else [])]),
    ]


def _error_text(taken: Taken) -> str:
    if taken.exact_problem:
        return f"exact: {taken.exact_problem}"
    if taken.exact_cpu_s is None:
        return ""
    errors = ", ".join(f"{name} {error:+.2%}" for name, error in taken.errors.items())
    return f"{errors} (exact {taken.exact_cpu_s:.3g} CPU-s)"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="Questions whose name contains this.")
    parser.add_argument("--limit", type=float, default=600.0, metavar="S", help="Most wall time of a question [600].")
    parser.add_argument(
        "--exact", type=float, default=600.0, metavar="S", help="Most wall time of the exact engine, 0 for not at all [600]."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write everything that was measured.")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="Put the table into performance.md in this folder.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
