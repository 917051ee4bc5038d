"""Which requests does the model serve: how many sequences, and which tokens are image or text, prefill or decode?

Main types: :class:`~smoes_sim.workload.workload.WorkloadSpec`, the section of a scenario, and
:class:`~smoes_sim.workload.workload.Workload`, its tokens. Neighbours: ``models`` counts the tokens of an image,
``routing`` decides which experts each token visits.
"""

from smoes_sim.workload.workload import Workload, WorkloadSpec, build_workload, preset_names, workload_of_tokens

__all__ = ["Workload", "WorkloadSpec", "build_workload", "preset_names", "workload_of_tokens"]
