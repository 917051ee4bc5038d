"""What does a topology do for real? Built on one Linux box from network namespaces, and checked before it is used.

:func:`plan_lab` decides what to build (``scaling`` how fast it may be), ``iproute`` says it in the words of ``ip`` and
``tc``, :class:`Lab` builds it (``namespaces`` is what it asks of the kernel), runs programs in it and takes it down,
``check`` measures every link before anybody trusts it, ``launch`` starts one program in all ranks. Knows nothing of
experts, and nothing of torch.
"""

from smoes_sim.lab.lab import Lab, find_lab, standing_labs, sweep
from smoes_sim.lab.plan import LabPlan, LabRank, plan_lab

__all__ = ["Lab", "LabPlan", "LabRank", "find_lab", "plan_lab", "standing_labs", "sweep"]
