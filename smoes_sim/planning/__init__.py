"""Which system on a price list is the cheapest that is fast enough?

``plan_file`` reads objectives, candidates with prices, and routings to try; ``options`` predicts every offer, ``binding``
names the resource that limits it, ``answer`` ranks them and names options that the constants do not separate.
"""

from __future__ import annotations

from smoes_sim.planning.answer import make_plan
from smoes_sim.planning.plan_answer import PlanAnswer, PlanOption
from smoes_sim.planning.plan_file import Offer, Plan, PlanFile, load_plan, plan_names

__all__ = ["Offer", "Plan", "PlanAnswer", "PlanFile", "PlanOption", "load_plan", "make_plan", "plan_names"]
