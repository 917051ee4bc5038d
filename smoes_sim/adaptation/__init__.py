"""When should experts be placed again while the mix of modalities drifts?

``windows`` cuts a workload into windows, ``schedule`` places experts in some of them, ``adapt`` times steps and moves; the
answer is an :class:`~smoes_sim.adaptation.result.Adaptation`.
"""
