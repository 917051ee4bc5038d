"""How are results printed and drawn?

``tables`` prints numbers and words as text or HTML, ``progress`` shows how far long work has come, ``result`` is the base of
what public functions return, ``charts`` loads the plotting library and saves charts. Knows nothing of experts or networks.
"""
