"""The functions that people call: names, paths or objects in, typed results out.

``inputs`` turns what was given into scenarios, ``predict`` answers for deployments, ``service`` for arriving requests
and price lists, ``study`` for grids and for placement over time, ``measure`` fits and validates, ``learn`` trains and
captures, ``catalogue`` lists what is shipped. ``smoes_sim`` exports all of it; the commands call it too.
"""
