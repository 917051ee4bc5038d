"""When does each flow end if flows share links max-min fairly and rates change when a flow starts or ends?

``waterfill`` computes the rates (``compiled`` does so for large exchanges), ``active_flows`` holds the flows in flight
and finds the next event, ``symmetry`` merges flows that are provably equal, ``solve`` runs one exchange to its end,
``certificate`` bounds that end without solving, ``prepared`` solves the same routes many times and ``engine`` many
exchanges on SimPy's clock. Main types: ``ActiveFlows``, ``PreparedRoutes``, ``Engine``.
"""
