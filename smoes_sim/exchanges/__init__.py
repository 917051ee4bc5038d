"""How long does one all-to-all take on this topology?

:func:`alltoall` answers in the columns of nccl-tests, for a cluster that you do not have; :class:`Alltoall` is its result.
``demand`` chooses who sends what, ``timing`` times one exchange, ``bandwidth`` turns times into bandwidths, ``charts``
draws. Neighbours: ``network`` has the models, ``traffic`` the matrices, ``prediction`` the calibrations.
"""

from smoes_sim.exchanges.demand import Demand
from smoes_sim.exchanges.result import Alltoall, AlltoallSettings, BusiestLinks
from smoes_sim.exchanges.run import alltoall
from smoes_sim.exchanges.timing import AlltoallOptions, AlltoallRow

__all__ = ["Alltoall", "AlltoallOptions", "AlltoallRow", "AlltoallSettings", "BusiestLinks", "Demand", "alltoall"]
