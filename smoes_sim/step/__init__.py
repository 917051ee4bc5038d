"""What happens in one forward pass, and when?

``build`` says what each rank sends and computes in a step, ``timeline`` simulates it on SimPy's clock, ``perfetto`` writes
the timeline as a trace for https://ui.perfetto.dev. Neighbours: ``compute`` and ``network`` give the times of the parts,
``prediction`` asks for steps.
"""
