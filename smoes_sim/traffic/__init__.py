"""How many bytes travel from rank to rank?

``copies`` counts them from a routing trace and a placement; ``skewed`` makes traffic matrices of a given unevenness
without a trace. Neighbours: ``placement`` says where experts and tokens are, ``network`` how long the bytes take.
"""
