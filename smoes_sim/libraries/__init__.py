"""How long does an exchange of a communication library take on hardware that was never measured?

A measured row becomes a :class:`~smoes_sim.libraries.system.SystemCase` (topology, transport classes, family, software).
The schedule of its family becomes a list of :class:`~smoes_sim.libraries.stage.ScheduleStage`: what each kind of link
carries, found by routing. A few constants, pooled over systems, turn stages into seconds.
"""
