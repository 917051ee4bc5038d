"""What happens in one forward pass, and when?

Main types: ``build.Step`` (messages and work of every rank) and ``timeline.StepTime`` (when it happens, on SimPy's clock).
``perfetto`` writes the timeline as a trace for https://ui.perfetto.dev. Neighbours: ``compute`` and ``network`` give the
times of the parts, ``prediction`` asks for steps.
"""
