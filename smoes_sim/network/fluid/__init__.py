"""The fluid model: flows share links max-min fairly, and rates change when a flow starts or ends.

``sharing`` is the rule, ``active_flows`` and ``waterfill`` apply it while flows come and go, ``compiled`` does the same
for large exchanges, ``symmetry`` merges ranks that are provably alike, ``solve`` runs one exchange to its end and
``engine`` runs many on SimPy's clock.
"""
