"""Where are experts and tokens placed?

:class:`ExpertPlacement` says which expert is on which rank, :func:`home_tokens` on which rank each token is at home. The
saving of SMoES depends on both: never report one without the other.
"""

from smoes_sim.placement.expert_placement import ExpertPlacement, occurrence_index
from smoes_sim.placement.experts import EXPERT_RULES, ExpertRule, check_slots, place_experts
from smoes_sim.placement.formats import read_placement
from smoes_sim.placement.moves import keep_in_place, moved_experts
from smoes_sim.placement.tokens import TOKEN_RULES, TokenRule, home_tokens, modality_ranks

__all__ = [
    "EXPERT_RULES",
    "TOKEN_RULES",
    "ExpertPlacement",
    "ExpertRule",
    "TokenRule",
    "check_slots",
    "home_tokens",
    "keep_in_place",
    "modality_ranks",
    "moved_experts",
    "occurrence_index",
    "place_experts",
    "read_placement",
]
