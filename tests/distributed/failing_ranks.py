"""Ranks that exchange and journal, until something goes wrong with one: see main."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from smoes_sim.distributed.group import join
from smoes_sim.distributed.journal import Journal
from smoes_sim.distributed.patterns import exchange
from smoes_sim.errors import ConfigError

STEPS_BEFORE = 3


def go_wrong(how: str) -> None:
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "stays away":
        time.sleep(3600)
    if how == "raises":
        raise ConfigError("rows.yaml:3:1: no such thing. Write another.")


def main(how: str, who: str, folder: str, timeout: str, patience: str = "600") -> None:
    with join(timeout=float(patience)) as group, Journal(Path(folder), group.place.rank) as journal:
        group.timeout = float(timeout)
        num_ranks = group.place.num_ranks
        send_all, counts = exchange("direct"), [2] * num_ranks
        rows = torch.full((2 * num_ranks, 3), group.place.rank, dtype=torch.float32)
        for step in range(STEPS_BEFORE + 2):
            if step == STEPS_BEFORE and group.place.rank == int(who):
                go_wrong(how)
            with group.operation(f"step {step}"):
                send_all(rows, counts, counts)
            journal.write({"rank": group.place.rank, "step": step})


if __name__ == "__main__":
    main(*sys.argv[1:])
