"""Which experts does each token use?

:class:`RoutingTrace` is the answer, from a file or from a :class:`SyntheticRouter`, whose parameters ``targets`` finds;
``information`` measures how routing depends on modality. Knows nothing of ranks or links.
"""

from smoes_sim.routing.information import expert_counts, gini, modality_specialisation, text_share
from smoes_sim.routing.skipping import SkipShares, skip_slots
from smoes_sim.routing.synthetic import (
    GROUPED,
    KEPT_GROUPS,
    NUM_GROUPS,
    Policy,
    RouterParameters,
    SyntheticRouter,
    Tokens,
)
from smoes_sim.routing.targets import Rates, find_parameters, published
from smoes_sim.routing.trace import RoutingTrace, load_trace, save_trace

__all__ = [
    "GROUPED",
    "KEPT_GROUPS",
    "NUM_GROUPS",
    "Policy",
    "Rates",
    "RouterParameters",
    "RoutingTrace",
    "SkipShares",
    "SyntheticRouter",
    "Tokens",
    "expert_counts",
    "find_parameters",
    "gini",
    "load_trace",
    "modality_specialisation",
    "published",
    "save_trace",
    "skip_slots",
    "text_share",
]
