"""``python -m smoes_sim`` is ``smoes-sim``."""

import sys

from smoes_sim.cli import main

sys.exit(main())
