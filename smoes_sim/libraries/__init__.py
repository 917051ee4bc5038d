"""What does a communication library make of the bytes: how long does its exchange take on hardware never touched?

A measured row becomes a :class:`Case` (topology, transport classes, family, software), its family's schedule becomes a list
of :class:`Stage` (what each kind of link carries, by routing), and few constants that are pooled over systems turn stages
into seconds.
"""
