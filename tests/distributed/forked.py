"""Processes for ranks, forked from one that has imported torch and this package: starting one costs no imports.

The fork server starts no thread and computes nothing, so that forking it is safe. That ranks start by themselves too is
tested where whole commands run (test_bench.py, test_run.py).
"""

from __future__ import annotations

import os
import sys
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from unittest import mock

_PRELOADED = ["pytest", "torch.distributed", "four_ranks", "layer_cases", "clock_checks", "smoes_sim.distributed.journal"]


def fork_context() -> ForkServerContext:
    """The context of the fork server, which runs from the first call on."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    paths = os.pathsep.join(sys.path)
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with mock.patch.dict(os.environ, environment):
        forkserver.ensure_running()
    return context
