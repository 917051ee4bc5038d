"""The functions that people call: names, paths or objects in, typed results out.

``inputs`` turns what was given into scenarios, ``predict`` answers for deployments, ``exchange`` for a single all-to-all,
``measure`` fits and validates, ``study`` runs grids, plans and services, ``learn`` trains and captures, ``catalogue`` lists
what is shipped. ``smoes_sim`` exports all of it; the commands call it too.
"""
