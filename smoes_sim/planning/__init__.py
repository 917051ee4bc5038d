"""Which system is the cheapest that is fast enough: a price list of topologies, each tried with the routings asked for.

``plan_file`` reads what is wanted and what is on offer, ``options`` predicts every offer, ``binding`` tells what holds it
back, ``answer`` ranks them and says what cannot be told apart.
"""

from __future__ import annotations

from smoes_sim.planning.answer import make_plan
from smoes_sim.planning.plan_answer import PlanAnswer, PlanOption
from smoes_sim.planning.plan_file import Offer, Plan, PlanFile, load_plan, plan_names

__all__ = ["Offer", "Plan", "PlanAnswer", "PlanFile", "PlanOption", "load_plan", "make_plan", "plan_names"]
