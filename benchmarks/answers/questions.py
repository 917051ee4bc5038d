"""The questions: the commands that answer them, what they may take, and why one takes longer."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
OUT = "{out}"
"""Stands for a new empty folder in the arguments of a command."""
_SMOES_SIM = (sys.executable, "-m", "smoes_sim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row of the table.

    Attributes:
        name: What ``--only`` selects.
        text: The question.
        commands: Commands that answer it, one after the other; a short name of a folder may stand in them, ``OUT``.
        goal: Most seconds of all commands together.
        is_wall: Whether the goal is of wall time (for several workers); otherwise of CPU time, user + system.
        most_GB: Most memory of one process, 1e9 bytes.
        exit_code: What the commands end with.
        has_engines: Whether ``engine=exact`` answers it too.
        why: Why it takes longer than the goal; printed if it does.
        on_demand: Whether it runs only if named by ``--only``.
    """

    name: str
    text: str
    commands: tuple[tuple[str, ...], ...]
    goal: float
    is_wall: bool = False
    most_GB: float | None = None  # noqa: N815 (a unit)
    exit_code: int = 0
    has_engines: bool = False
    why: str = ""
    on_demand: bool = False


def _ask(*arguments: str) -> tuple[tuple[str, ...], ...]:
    return ((*_SMOES_SIM, *arguments),)


def _file(name: str) -> str:
    return str(_HERE / f"{name}.yaml")


_STUDIES = ("document", "equal-parameters", "link-speed", "paper", "scale-out", "upgrades")
_MODELS = {
    "qwen": ("Qwen3-VL-235B", "qwen3-vl-235b-a22b", "16x8-p5-efa"),
    "deepseek": ("DeepSeek-V3", "deepseek-v3", "h100-rail-16"),
}
_LARGER = {"16x8-p5-efa": ("topology.nodes=32",), "h100-rail-16": ("topology=h100-rail-32",)}
"""How a topology of 128 ranks becomes one of 256."""


def _decode(short: str, ranks: int, goal: float) -> Question:
    title, model, topology = _MODELS[short]
    changes = _LARGER[topology] if ranks > 128 else ()
    return Question(
        name=f"decode-{short}-{ranks}",
        text=f"decode, 128 sequences a rank, context 2k: {title}, {ranks} ranks",
        commands=_ask(
            "simulate", _file("decode"), f"model={model}", f"topology={topology}", f"ranks={ranks}", *changes, "--json"
        ),
        goal=goal,
        has_engines=True,
    )


def _prefill(short: str) -> Question:
    title, model, topology = _MODELS[short]
    return Question(
        name=f"prefill-{short}-32",
        text=f"prefill, 8k tokens a rank: {title}, 32 ranks",
        commands=_ask("simulate", _file("prefill"), f"model={model}", f"topology={topology}", "--json"),
        goal=10,
        has_engines=True,
    )


def _pass(ranks: int, goal: float, *, most: float | None = None) -> Question:
    return Question(
        why="all layers are routed and counted, six run three times and are compared with the exact engine",
        name=f"pass-{ranks}",
        text=f"pass of Qwen3-VL-30B-A3B, 48 layers, {ranks:,} ranks",
        commands=_ask("simulate", _file("pass"), f"topology=h100-rail-{ranks // 8}", f"workload.batch={ranks}", "--json"),
        goal=goal,
        most_GB=most,
        has_engines=True,
    )


def _alltoall(name: str, text: str, topology: str, *skew: str, goal: float, most: float | None = None) -> Question:
    return Question(
        name=name,
        why="three solutions with windows, and merging their routes" if skew else "",
        text=f"alltoall, {text}",
        commands=_ask("alltoall", _file(topology), "--bytes", "64MiB", *skew, "--json"),
        goal=goal,
        most_GB=most,
    )


_START = "typer and NumPy take most of the start"
QUESTIONS: tuple[Question, ...] = (
    Question(name="help", text="--help", commands=_ask("--help"), goal=0.2, why=_START),
    Question(name="topology-list", text="topology list", commands=_ask("topology", "list"), goal=0.4, why=_START),
    Question(
        name="mistyped",
        text="a mistyped name",
        commands=_ask("simulate", "olmoe-two-orn"),
        goal=0.5,
        exit_code=2,
        why=_START,
    ),
    Question(
        name="readme",
        text="compare olmoe-two-orin, 8 rows",
        commands=_ask(
            "compare",
            "olmoe-two-orin",
            "routing.policy=standard,smoes",
            "placement.tokens=data_parallel,sharded,modality,affinity",
            "--json",
        ),
        goal=4,
    ),
    Question(
        name="two-orin",
        text="simulate olmoe-two-orin",
        commands=_ask("simulate", "olmoe-two-orin", "--json"),
        goal=1.2,
        has_engines=True,
    ),
    *(_decode(short, ranks, goal) for ranks, goal in ((32, 5.0), (64, 8.0), (256, 20.0)) for short in _MODELS),
    *(_prefill(short) for short in _MODELS),
    _pass(256, 6),
    _pass(1024, 30, most=4),
    Question(name="plan", text="plan document-chat", commands=_ask("plan", "document-chat", "--out", OUT), goal=15),
    Question(
        name="plan-arrivals",
        text="plan with arrivals at 20/s, one offer",
        commands=_ask("plan", _file("arrivals"), "--out", OUT),
        goal=5,
        why="the search serves the requests step by step in Python, for each set of constants, at every rate it tries",
    ),
    Question(
        name="sweep",
        text="sweep of 120 points, OLMoE, 2 to 32 ranks, two workers",
        commands=_ask("sweep", _file("sweep-120"), "--jobs", "2", "--out", OUT),
        goal=60,
        is_wall=True,
    ),
    Question(
        name="studies",
        text="the six shipped studies together, two workers",
        commands=tuple((*_SMOES_SIM, "sweep", study, "--jobs", "2", "--out", f"{OUT}/{study}") for study in _STUDIES),
        goal=300,
        is_wall=True,
        why="no topology, placement or traffic is shared between points",
    ),
    _alltoall("zipf-1024", "Zipf(1) per source, star, 1,024 ranks", "star-1024", "--zipf", "1", "--per-source", goal=1.5),
    _alltoall("zipf-4096", "Zipf(1) per source, star, 4,096 ranks", "star-4096", "--zipf", "1", "--per-source", goal=25),
    _alltoall("uniform-star-4096", "uniform, star, 4,096 ranks", "star-4096", goal=2, most=1),
    _alltoall("uniform-rails-4096", "uniform, rails with split routes, 4,096 ranks", "rails-4096", goal=4, most=1),
    Question(name="check", text="./check", commands=(("./check",),), goal=600, is_wall=True, on_demand=True),
)
