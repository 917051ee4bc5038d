"""When should experts be placed again while the modality mix drifts?

``windows`` cuts a workload into windows, ``adapt`` places experts in some of them and counts what the moves cost.
"""
