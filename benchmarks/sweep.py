"""Kill a sweep again and again and say what it cost: ``python -m benchmarks.sweep``.

The command is killed with SIGKILL at seeded moments (after so many more points and a part of a second; sometimes its workers
with it, sometimes alone), started again, and at last left to finish. Every point that was finished at a kill must still be
the same file, untouched, and the tables must be the bytes of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LIMIT_S = 300.0
"""A run that finishes nothing for so long has failed."""
_LOOK_S = 0.01
_STUDY = """\
scenario:
  topology: two-orin-10gbe
  model:
    {{name: tiny, layers: 2, hidden: 64, experts: 4, top_k: 2, expert_ffn: 64, vocab: 128, heads: 2, kv_heads: 2,
     head_dim: 32, image_tokens: {{kind: fixed, tokens: 4}}, source: made up, image_source: made up}}
  workload: {{text_tokens: 8, output_tokens: 2}}
  compute: {{device: a100-sxm4-80gb}}
grid:
  routing.policy: [standard, smoes]
  workload.batch: {batches}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A kill: how long the run had lived, and how many points were finished when it was dead."""

    after_s: float
    with_workers: bool
    finished: int


def write_study(path: Path, *, num_points: int) -> Path:
    """A study of cheap points: two ranks, a model of two small layers."""
    path.write_text(_STUDY.format(batches=list(range(1, num_points // 2 + 1))))
    return path


def command(study: Path, out: Path, *options: str) -> list[str]:
    """The sweep as a command of this interpreter."""
    start = "import sys; from smoes_sim.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", start, "sweep", str(study), "--out", str(out), "--json", *options]


def run(study: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run a sweep to its end; returns what it printed."""
    done = subprocess.run(command(study, out, *options), capture_output=True, check=True, timeout=_LIMIT_S)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def finished(out: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of writing of every finished point."""
    files = [path for path in (out / "points").glob("*.json") if not path.name.startswith(".")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def kill_repeatedly(study: Path, out: Path, *, num_points: int, kills: int, jobs: int, seed: int) -> Iterator[Kill]:
    """Start the sweep and kill it, ``kills`` times.

    Raises:
        RuntimeError: If a point that was finished is lost or written again, or a killed run's workers live on.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, tuple[bytes, int]] = {}
    for _ in range(kills):
        more = int(rng.integers(0, max(2, 2 * (num_points - len(kept)) // (kills + 1))))
        moment = float(rng.uniform(0, 0.2 if more else 2.0))
        with_workers = bool(rng.integers(2))
        began = time.monotonic()
        process = subprocess.Popen(
            command(study, out, "--jobs", str(jobs)),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait(process, out, len(kept) + more)
        time.sleep(moment)
        (os.killpg if with_workers else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        after = time.monotonic() - began
        _wait_for_workers(process.pid)
        now = finished(out)
        if wrong := [name for name, file in kept.items() if now.get(name) != file]:
            raise RuntimeError(f"{len(wrong)} finished points were lost or written again")
        kept = now
        yield Kill(after_s=after, with_workers=with_workers, finished=len(kept))


def _wait(process: subprocess.Popen[bytes], out: Path, num_points: int) -> None:
    """Wait until so many points are finished, or the run is."""
    limit = time.monotonic() + _LIMIT_S
    while process.poll() is None and len(list((out / "points").glob("[!.]*.json"))) < num_points:
        if time.monotonic() > limit:
            process.kill()
            raise RuntimeError(f"fewer than {num_points} points after {_LIMIT_S:.0f} s")
        time.sleep(_LOOK_S)


def _wait_for_workers(group: int) -> None:
    """Wait until nothing of a process group lives."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(_LOOK_S)
    raise RuntimeError("workers of a killed sweep still live after 30 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder, "study.yaml"), num_points=asked.points)
        quiet, killed = Path(folder, "quiet"), Path(folder, "killed")
        began = time.monotonic()
        run(study, quiet)
        print(f"undisturbed, one process: {asked.points} points in {time.monotonic() - began:.1f} s")
        kills = kill_repeatedly(study, killed, num_points=asked.points, kills=asked.kills, jobs=asked.jobs, seed=asked.seed)
        kept = 0
        for number, kill in enumerate(kills, start=1):
            kept = kill.finished
            whom = "command and workers" if kill.with_workers else "command alone"
            print(f"kill {number:2d}: {kill.after_s:5.2f} s after its start, {whom}; {kept} points finished, none lost")
        last = run(study, killed, "--jobs", str(asked.jobs))
        if last["skipped"] != kept:
            raise RuntimeError(f"the last run found {last['skipped']} finished points, not {kept}")
        names = ["runs.parquet", "summary.json", *sorted(f"points/{name}" for name in finished(quiet))]
        different = [name for name in names if (quiet / name).read_bytes() != (killed / name).read_bytes()]
        left = len(list((killed / "points").glob(".*")))
        print(f"last run: {last['skipped']} points found, {last['done']} computed, {left} files half-written")
        print(f"files that differ from the undisturbed run: {len(different)} of {len(names)}")
        sys.exit(1 if different or left else 0)


if __name__ == "__main__":
    main()
