"""Which functions do users call? Names, paths or objects in, typed results out.

``inputs`` turns arguments into scenarios, ``predict`` predicts deployments, ``service`` serves arriving requests and
plans from price lists, ``study`` runs grids and placement over time, ``measure`` fits and validates, ``learn`` trains and
captures, ``catalogue`` lists what is shipped. ``smoes_sim`` exports all of it; the commands call it too.
"""
