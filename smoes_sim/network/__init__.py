"""How long do the bytes take?

``flows`` gives messages their routes and the lower bound, ``sharing`` divides links max-min fairly, ``engine`` does it on
SimPy's clock, ``schedules`` say what a library posts and in which order, ``exchange`` times one exchange alone. Knows
nothing of experts or tokens.
"""

from smoes_sim.network.batch import BatchEngine
from smoes_sim.network.engine import Engine, Exchange, LinkUse
from smoes_sim.network.exchange import ExchangeTime, exchange_time, make_engine, open_phases, take_part
from smoes_sim.network.flows import Flows, Network, link_load, lower_bound
from smoes_sim.network.schedules import Order, Schedule, phases_of
from smoes_sim.network.sharing import max_min_rates

__all__ = [
    "BatchEngine",
    "Engine",
    "Exchange",
    "ExchangeTime",
    "Flows",
    "LinkUse",
    "Network",
    "Order",
    "Schedule",
    "exchange_time",
    "link_load",
    "lower_bound",
    "make_engine",
    "max_min_rates",
    "open_phases",
    "phases_of",
    "take_part",
]
