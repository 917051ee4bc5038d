"""How near the fast engine is to the exact one, on random scenarios: ``python -m benchmarks.engines --number 60``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import Scenario

MODELS = ("olmoe-1b-7b", "deepseekmoe-16b", "kimi-vl-a3b", "qwen3-vl-30b-a3b", "llama-4-scout", "deepseek-vl2-small")
QUANTITIES = ("ttft_s", "tpot_s", "ep_comm_s", "ep_exposed_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """One scenario under both engines.

    Attributes:
        scenario: In words.
        engine: What ``auto`` chose for prefill.
        errors: Relative difference of ``auto`` to ``exact``, by JSON key.
        auto_s: CPU-seconds of the prediction with ``auto``.
        exact_s: The same with ``exact``.
    """

    scenario: str
    engine: str
    errors: dict[str, float]
    auto_s: float
    exact_s: float


def random_scenario(rng: np.random.Generator, *, ranks: Sequence[int] = (2, 4, 8, 16, 32, 64)) -> dict[str, Any]:
    """A scenario as a file would have it: any model, topology, skew, placement of tokens and overlap."""
    number = int(rng.choice(ranks))
    model = str(rng.choice(MODELS))
    if model == "llama-4-scout":
        number = min(number, 16)  # it has 16 experts
    return {
        "topology": _topology(rng, number),
        "model": model,
        "workload": {
            "preset": str(rng.choice(["mmmu", "gsm8k"])),
            "sequences_per_rank": int(rng.choice([1, 2, 4])),
            "output_tokens": 3,
        },
        "routing": {"policy": "standard", "rates": None, "popularity": float(rng.choice([0.1, 0.5, 1.0]))},
        "placement": {"tokens": str(rng.choice(["data_parallel", "affinity", "sharded"]))},
        "communication": {"per_message": f"{rng.choice([0, 1, 3])} us", "per_exchange": f"{rng.choice([0, 20])} us"},
        "compute": {"device": "h100-sxm"},
        "overlap": str(rng.choice(["none", "shared_expert"])),
        "seed": int(rng.integers(1000)),
    }


def _topology(rng: np.random.Generator, ranks: int) -> dict[str, Any]:
    bandwidth = f"{rng.choice([3, 25, 50])} GB/s"
    if ranks < 8 or rng.random() < 0.3:
        return {"kind": "star", "ranks": ranks, "link": {"bandwidth": bandwidth, "latency": "2 us"}}
    kind, nodes, thinning = str(rng.choice(["two_level", "rail_optimized"])), ranks // 4, int(rng.choice([1, 2, 4]))
    pods = {} if kind == "two_level" else {"nodes_per_pod": max(1, nodes // 2), "spines": 2}
    return {
        "kind": kind,
        "nodes": nodes,
        "ranks_per_node": 4,
        "scale_up": {"kind": "nvlink4", "bandwidth": "450 GB/s", "latency": "1 us"},
        "nic": {"kind": "infiniband", "per": "rank", "bandwidth": bandwidth, "latency": "2 us"},
        "fabric": {"oversubscription": thinning} | pods,
    }


def compared(document: dict[str, Any]) -> EngineRow:
    """One scenario under ``auto`` and ``exact``, with the same sample of its layers."""
    found, spent = [], []
    for engine in ("auto", "exact"):
        start = time.process_time()
        found.append(simulate(Scenario.model_validate(document | {"engine": engine})))
        spent.append(time.process_time() - start)
    fast, exact = found
    errors = {key: getattr(fast, key) / getattr(exact, key) - 1 for key in QUANTITIES if getattr(exact, key)}
    topology, placement = document["topology"], document["placement"]["tokens"]
    thinning = topology.get("fabric", {}).get("oversubscription", 1)
    words = f"{document['model']}, {fast.ranks} ranks, {topology['kind']} {thinning}:1, {placement}, {document['overlap']}"
    return EngineRow(scenario=words, engine=fast.engine, errors=errors, auto_s=spent[0], exact_s=spent[1])


def summary(rows: Sequence[EngineRow]) -> list[str]:
    """Median and largest difference of each quantity, and the CPU time."""
    lines = []
    for key in QUANTITIES:
        errors = np.abs([row.errors[key] for row in rows if key in row.errors])
        lines.append(f"{key:14} median {100 * np.median(errors):.3f} %, worst {100 * errors.max():.2f} %, n = {len(errors)}")
    auto, exact = (sum(getattr(row, name) for row in rows) for name in ("auto_s", "exact_s"))
    return [*lines, f"CPU time: auto {auto:.0f} s, exact {exact:.0f} s"]


def main() -> None:
    """Print one line a scenario, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=60, help="number of scenarios")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenarios")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    rows = []
    for index in range(options.number):
        rows.append(compared(random_scenario(rng)))
        row = rows[-1]
        errors = "  ".join(f"{key} {100 * error:+.3f}%" for key, error in row.errors.items())
        print(f"{index:3} {row.scenario}: {row.engine}  {errors}  ({row.auto_s:.1f} / {row.exact_s:.1f} s)", flush=True)
    print(*summary(rows), sep="\n")


if __name__ == "__main__":
    main()
