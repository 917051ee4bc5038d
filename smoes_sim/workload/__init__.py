"""Which requests does the model serve: how many sequences, and which tokens are image or text, prefill or decode?

Main types: :class:`~smoes_sim.workload.spec.WorkloadSpec`, the section of a scenario, and
:class:`~smoes_sim.workload.workload.Workload`, its tokens. Neighbours: ``models`` counts the tokens of an image,
``routing`` decides which experts each token visits.
"""

from smoes_sim.workload.spec import Phase, WorkloadSpec, preset_names
from smoes_sim.workload.workload import Workload, build_workload, workload_of_tokens

__all__ = ["Phase", "Workload", "WorkloadSpec", "build_workload", "preset_names", "workload_of_tokens"]
