"""``smoes-sim run`` under ``torchrun``, on any cluster.

For example: torchrun --nproc-per-node 8 runners/ep.py my-scenario.yaml --out measured
"""

import sys

from smoes_sim.cli import main

sys.exit(main(["run", *sys.argv[1:]]))
