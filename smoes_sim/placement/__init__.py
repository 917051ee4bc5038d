"""Where do experts and tokens live?

:class:`ExpertPlacement` says which expert is on which rank, :func:`home_tokens` on which rank a token is at home. The
saving of SMoES depends on both: never report one without the other.
"""

from smoes_sim.placement.experts import ExpertPlacement, ExpertRule, place_experts
from smoes_sim.placement.formats import read_placement
from smoes_sim.placement.moves import keep_in_place, moved_experts
from smoes_sim.placement.tokens import TOKEN_RULES, TokenRule, home_tokens, modality_ranks

__all__ = [
    "TOKEN_RULES",
    "ExpertPlacement",
    "ExpertRule",
    "TokenRule",
    "home_tokens",
    "keep_in_place",
    "modality_ranks",
    "moved_experts",
    "place_experts",
    "read_placement",
]
