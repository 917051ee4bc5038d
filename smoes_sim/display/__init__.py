"""How do results look?

``tables`` sets numbers and words as text or HTML, ``result`` is the base of what public functions return, ``charts`` loads
the plotting library and saves what it draws. Knows nothing of experts, networks or files of results.
"""
