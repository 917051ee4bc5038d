"""``smoes-sim bench`` under ``torchrun``, on any cluster.

For example: torchrun --nproc-per-node 8 runners/bench.py --sweep "1 KiB:1 GiB" -o rows.csv
"""

import sys

from smoes_sim.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
