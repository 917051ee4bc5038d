"""How long do the bytes take?

``flows`` gives messages their routes and the lower bound, ``sharing`` divides links max-min fairly, ``engine`` does it on
SimPy's clock, ``schedules`` say what a library posts and in which order, ``exchange`` times one exchange alone. Knows
nothing of experts or tokens.
"""

from smoes_sim.network.exchange import ExchangeTime, Processes, announce, exchange_time, take_part
from smoes_sim.network.flows import Flows, Network, link_load, lower_bound
from smoes_sim.network.fluid.engine import Engine, Exchange
from smoes_sim.network.fluid.sharing import max_min_rates
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.network.schedules import Order, Schedule, phases_of

__all__ = [
    "Engine",
    "Exchange",
    "ExchangeTime",
    "Flows",
    "LinkUse",
    "Network",
    "Order",
    "Processes",
    "Schedule",
    "announce",
    "exchange_time",
    "link_load",
    "lower_bound",
    "max_min_rates",
    "phases_of",
    "take_part",
]
