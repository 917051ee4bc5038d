"""How does a topology behave for real? Built on one Linux machine from network namespaces, and checked before use.

:func:`plan_lab` decides what to build (``scaling`` its rates), ``iproute`` writes the input of ``ip`` and ``tc``,
:class:`Lab` builds it (``namespaces`` calls the kernel, ``state`` keeps the files of labs), runs programs in it and takes
it down, ``check`` measures every link before use, ``launch`` starts one program in all ranks. Knows nothing of experts and
torch.
"""

from smoes_sim.lab.lab import Lab, find_lab, standing_labs, sweep
from smoes_sim.lab.plan import LabPlan, LabRank, plan_lab

__all__ = ["Lab", "LabPlan", "LabRank", "find_lab", "plan_lab", "standing_labs", "sweep"]
