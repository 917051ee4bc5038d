"""Run a shipped sweep study and print what changes, draw by draw: ``python -m benchmarks.studies paper --out paper``.

A point is compared with the point that differs in the last key of the grid alone and has that key's first value; without a
grid, with the first point. Draws are kept, so that what both points do not know cancels. A killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim.errors import SmoesError
from smoes_sim.files import write_bytes
from smoes_sim.simulate import interval, simulate
from smoes_sim.sweep import Point, Sweep, load_sweep
from smoes_sim.sweep.store import Outcome, Store, digest_of_point

CHANGES = ("ttft_s", "tpot_s", "tokens_per_s")
_HEAD = (
    "",
    "TTFT (s)",
    "EP part (%)",
    "bytes (GB)",
    "max/mean",
    "TTFT change (%)",
    "TPOT change (%)",
    "tokens/s change (%)",
)


def outcomes_of(sweep: Sweep, out: Path) -> list[Outcome]:
    """``values`` and ``draws`` of every point, computed or found in the folder.

    Raises:
        SmoesError: If a point is not a valid scenario, or cannot be predicted.
    """
    store, found = Store(out), []
    with store.open():
        for number, point in enumerate(sweep.points, start=1):
            digest = digest_of_point(point)
            outcome = store.read(digest) or {}
            if "draws" not in outcome:
                outcome = _predicted(point)
                store.write(digest, point, outcome)
            found.append(outcome)
            print(f"{number} of {len(sweep.points)}: {point.name}", file=sys.stderr, flush=True)
    return found


def _predicted(point: Point) -> Outcome:
    if point.scenario is None:
        raise SmoesError(point.problem)
    prediction = simulate(point.scenario)
    return {"values": prediction.values, "draws": prediction.draws}


def baselines(sweep: Sweep) -> list[int]:
    """Index of the point that each point is compared with."""
    if not sweep.file.grid:
        return [0] * len(sweep.points)
    count = len(list(sweep.file.grid.values())[-1])
    return [number // count * count for number in range(len(sweep.points))]


def change(mine: Outcome, base: Outcome, key: str) -> tuple[float, list[float]] | None:
    """Relative change of a quantity, its median and interval over the draws; None where a point does not have it.

    Example:
        1 s and 2 s under two draws against 2 s and 2 s: -0.5 and 0, so -0.25 [-0.5, 0].
    """
    if key not in mine["draws"] or key not in base["draws"]:
        return None
    ratio = np.array(mine["draws"][key]) / np.array(base["draws"][key]) - 1
    return float(np.median(ratio)), interval(ratio.tolist())


def table(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """A row per point as Markdown."""
    rows = [_HEAD, tuple("---" for _ in _HEAD)]
    for point, outcome, base in zip(sweep.points, outcomes, baselines(sweep), strict=True):
        values = outcome["values"]
        changes = [_change_text(outcome, outcomes[base], key) for key in CHANGES]
        cells = [_number(values, "ttft_s", 1), _number(values, "ep_overhead", 100)]
        cells += [f"{values['bytes_remote'] / 1e9:.3g}", f"{values['imbalance']:.2f}"]
        rows.append((point.name, *cells, *(changes if outcome is not outcomes[base] else [""] * len(changes))))
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _number(values: dict[str, Any], key: str, factor: float) -> str:
    low, high = values["intervals"][key]
    return f"{factor * values[key]:.3g} [{factor * low:.3g}, {factor * high:.3g}]"


def _change_text(mine: Outcome, base: Outcome, key: str) -> str:
    found = change(mine, base, key)
    if found is None:
        return "-"
    middle, (low, high) = found
    return f"{100 * middle:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", help="a shipped sweep study or a file")
    parser.add_argument("--out", type=Path, required=True, help="folder of points and table.md; it is gone on with")
    asked = parser.parse_args(arguments)
    try:
        sweep = load_sweep(asked.study)
        text = table(sweep, outcomes_of(sweep, asked.out))
        write_bytes(asked.out / "table.md", text.encode())
    except SmoesError as error:
        print(error, file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
