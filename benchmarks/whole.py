"""Rows of whole predictions and whole commands, as a user starts them."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.processes import Lab, run_process
from benchmarks.rows import Outcome, Row, factor_text, failed, time_text, where_time_went

_PASS_S = 60.0
_TOLERANCE = 1e-3
"""What scenarios aim at when they say nothing."""
_COMMAND = ["alltoall", "h100-rail-32", "--zipf", "1", "--per-source", "--json"]
"""256 ranks, 65,280 flows: large enough to need the compiled core."""


def _scenario(topology: str, ranks: int, policy: str) -> dict[str, Any]:
    """An MMMU request a rank, prefilled together, no token beyond the first, so that one pass is all there is."""
    return {
        "topology": topology,
        "model": "qwen3-vl-30b-a3b",
        "workload": {"preset": "mmmu", "batch": ranks, "output_tokens": 1},
        "routing": {"policy": policy},
        "placement": {"tokens": "data_parallel"},
        "compute": {"device": "h100-sxm"},
    }


def pass_row(topology: str, ranks: int, policy: str, *, has_target: bool) -> Row:
    """A forward pass of 48 layers, dispatch and combine in each, with its bound."""
    name = f"pass-{ranks}-{policy}"

    def measure(lab: Lab) -> Outcome:
        answer = lab.run({"work": "forward_pass", "scenario": _scenario(topology, ranks, policy)})
        outcome = Outcome(
            name=name,
            work=f"forward pass: Qwen3-VL-30B-A3B, 48 layers, {ranks} ranks ({topology}), {policy} routing",
            target=f"<= {_PASS_S:g} s" if has_target else "-",
        )
        if "error" in answer:
            return failed(outcome, answer)
        is_over = has_target and answer["wall_s"] > _PASS_S
        return replace(
            outcome,
            reached=time_text(answer),
            peak_MB=answer["peak_MB"],
            ratio=f"EP time {answer['communication_s'] * 1e3:.3f} ms, bound {answer['bound_s'] * 1e3:.3f} ms: "
            f"{answer['communication_s'] / answer['bound_s']:.4f}",
            hit=not is_over if has_target else None,
            reason=f"{answer['wall_s']:.3g} s > {_PASS_S:g} s ({where_time_went(answer)})" if is_over else "",
            facts=answer,
        )

    return Row(name=name, measure=measure)


def pass_error_row(topology: str, ranks: int) -> Row:
    """How far windows move the ends of a pass from those with every rate change followed."""
    name = f"pass-{ranks}-error"

    def measure(lab: Lab) -> Outcome:
        scenario = _scenario(topology, ranks, "smoes") | {"model": "olmoe-1b-7b"}
        answer = lab.run({"work": "pass_error", "scenario": scenario, "tolerances": [_TOLERANCE]})
        outcome = Outcome(
            name=name,
            work=f"forward pass: OLMoE-1B-7B, 16 layers, {ranks} ranks ({topology}), smoes, tolerance {_TOLERANCE:g}",
            target=f"<= {100 * _TOLERANCE:g}%",
        )
        if "error" in answer:
            return failed(outcome, answer)
        exact, close = answer["passes"]
        last = abs(max(close["finish_s"]) / max(exact["finish_s"]) - 1)
        any_rank = max(abs(ours / true - 1) for ours, true in zip(close["finish_s"], exact["finish_s"], strict=True))
        return replace(
            outcome,
            reached=f"{close['cpu_s']:.3g} CPU-s",
            error=f"{last:.1e} vs exact ({exact['cpu_s']:.3g} CPU-s), any rank {any_rank:.1e}",
            ratio=factor_text(exact["cpu_s"] / close["cpu_s"]),
            hit=last <= _TOLERANCE,
            reason="" if last <= _TOLERANCE else f"off by {last:.1e}",
            facts={"error": last, "rank_error": any_rank, "exact_cpu_s": exact["cpu_s"], "cpu_s": close["cpu_s"]},
        )

    return Row(name=name, measure=measure)


def command_row() -> Row:
    """The command as a user calls it: with nothing compiled yet, and again."""

    def measure(_lab: Lab) -> Outcome:
        outcome = Outcome(
            name="command",
            work=f"smoes-sim {' '.join(_COMMAND)}, from start to exit: nothing compiled yet, then again",
            target="-",
        )
        with tempfile.TemporaryDirectory() as empty:
            cold, warm = (run_process(_program() + _COMMAND, environment={"NUMBA_CACHE_DIR": empty}) for _ in range(2))
        for done in (cold, warm):
            if done.problem:
                return failed(outcome, {"error": done.problem})
        inside = json.loads(warm.output)["wall_s"]
        return replace(
            outcome,
            reached=f"first {cold.wall_s:.3g} s ({cold.cpu_s:.3g} CPU-s), then {warm.wall_s:.3g} s ({warm.cpu_s:.3g} CPU-s)",
            peak_MB=max(cold.peak_MB, warm.peak_MB),
            ratio=f"{inside:.3g} s of the second are the exchange, the rest is starting",
            facts={
                "cold_wall_s": cold.wall_s,
                "cold_cpu_s": cold.cpu_s,
                "warm_wall_s": warm.wall_s,
                "warm_cpu_s": warm.cpu_s,
            },
        )

    return Row(name="command", measure=measure)


def _program() -> list[str]:
    """The installed command beside this interpreter, else the module."""
    script = shutil.which("smoes-sim", path=str(Path(sysconfig.get_path("scripts"))))
    return [script] if script else [sys.executable, "-c", "import smoes_sim.cli as cli; raise SystemExit(cli.main())"]


def whole_rows(*, quick: bool) -> list[Row]:
    """Passes and commands; the quick run takes a pass of 8 ranks."""
    if quick:
        return [
            pass_row("8x-h100", 8, "standard", has_target=False),
            pass_error_row("2x8-h100-ndr400", 16),
            command_row(),
        ]
    at_256 = [pass_row("h100-rail-32", 256, policy, has_target=True) for policy in ("standard", "smoes")]
    at_128 = pass_row("h100-rail-16", 128, "standard", has_target=False)
    return [*at_256, at_128, pass_error_row("8x8-h100-ndr400", 64), command_row()]
