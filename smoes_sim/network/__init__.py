"""How long do messages between ranks take?

Main types: :class:`Network` (a topology with routes and constants) and :class:`Flows` (the messages of one phase).
``schedules`` turns traffic matrices into phases, ``exchange`` times one exchange alone and ``separate`` many such,
``bounds`` encloses the time of one, ``staggered`` times one that ranks enter at different times and ``sequence`` several
one after the other, ``fluid`` and ``fifo`` are models of the network and ``packet`` judges them, ``hot`` names the busiest
links, ``compilation`` tells when code is compiled. Neighbours: ``topology`` below, ``step`` and ``exchanges`` above.
Independent of experts and tokens.
"""

from smoes_sim.network.bounds import ErrorKind, ExchangeDuration, exchange_bounds, exchange_duration
from smoes_sim.network.compilation import Fidelity, has_numba, may_compile
from smoes_sim.network.exchange import ExchangeTime, Processes, enter_exchange, exchange_time, finish_exchange
from smoes_sim.network.flows import Flows, Network, link_load, lower_bound
from smoes_sim.network.fluid.engine import ActivePhase, Engine
from smoes_sim.network.fluid.prepared import PreparedRoutes
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.network.fluid.waterfill import max_min_rates
from smoes_sim.network.schedules import Order, Schedule, phases_of
from smoes_sim.network.separate import SeparateExchanges
from smoes_sim.network.sequence import ExchangeSequence
from smoes_sim.network.staggered import (
    RouteSolver,
    StaggeredExchange,
    finish_at_no_cost,
    finish_chain,
    is_chain,
    is_one_phase,
)

__all__ = [
    "ActivePhase",
    "Engine",
    "ErrorKind",
    "ExchangeDuration",
    "ExchangeSequence",
    "ExchangeTime",
    "Fidelity",
    "Flows",
    "LinkUse",
    "Network",
    "Order",
    "PreparedRoutes",
    "Processes",
    "RouteSolver",
    "Schedule",
    "SeparateExchanges",
    "StaggeredExchange",
    "enter_exchange",
    "exchange_bounds",
    "exchange_duration",
    "exchange_time",
    "finish_at_no_cost",
    "finish_chain",
    "finish_exchange",
    "has_numba",
    "is_chain",
    "is_one_phase",
    "link_load",
    "lower_bound",
    "max_min_rates",
    "may_compile",
    "phases_of",
]
